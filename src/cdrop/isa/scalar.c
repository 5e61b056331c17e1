/* Plain C: the slowest wrapper, on every machine, and the text that says what each name means. */

#include "wrapper.h"

#define ISA scalar
#define ISA_NAME "scalar"

/* ---- masks ---- */

#define VQ_LANES 4
typedef struct {
    uint64_t lane[4];
} vq; /* a 32-bit word in the low half of each lane; the high half is anything */

#define EACH(n) for (int l = 0; l < (n); ++l)

static inline vq vq_set64(uint64_t a) {
    vq r;
    EACH(4) r.lane[l] = a;
    return r;
}
static inline vq vq_set1(uint32_t a) {
    return vq_set64(a);
}
static inline vq vq_lanes(uint32_t step) { /* 0, step, 2 step, ... */
    vq r;
    EACH(4) r.lane[l] = step * (uint64_t)l;
    return r;
}
static inline vq vq_gather(const uint32_t *a) {
    vq r;
    EACH(4) r.lane[l] = a[l];
    return r;
}
static inline vq vq_load(const uint64_t *a) {
    vq r;
    EACH(4) r.lane[l] = a[l];
    return r;
}
static inline void vq_store(uint64_t *to, vq a) {
    EACH(4) to[l] = a.lane[l];
}
static inline vq vq_add(vq a, vq b) {
    EACH(4) a.lane[l] += b.lane[l];
    return a;
}
static inline vq vq_sub(vq a, vq b) {
    EACH(4) a.lane[l] -= b.lane[l];
    return a;
}
static inline vq vq_mul_low(vq a, vq b) { /* low half times low half, all 64 bits */
    EACH(4) a.lane[l] = (uint64_t)(uint32_t)a.lane[l] * (uint32_t)b.lane[l];
    return a;
}
static inline vq vq_right(vq a, int n) {
    EACH(4) a.lane[l] >>= n;
    return a;
}
static inline vq vq_xor(vq a, vq b) {
    EACH(4) a.lane[l] ^= b.lane[l];
    return a;
}
static inline vq vq_xor3(vq late, vq a, vq b) { /* what comes late is joined last */
    return vq_xor(late, vq_xor(a, b));
}
static inline vq vq_and(vq a, vq b) {
    EACH(4) a.lane[l] &= b.lane[l];
    return a;
}
static inline vq vq_or(vq a, vq b) {
    EACH(4) a.lane[l] |= b.lane[l];
    return a;
}
static inline vq vq_and_not(vq a, vq b) { /* ~a & b */
    EACH(4) b.lane[l] &= ~a.lane[l];
    return b;
}
static inline void vq_store4(void *to, const vq *w) { /* words 0 ... 3 of each lane, lane by lane */
    uint32_t words[4][4];
    EACH(4) for (int q = 0; q < 4; ++q) words[l][q] = (uint32_t)w[q].lane[l];
    memcpy(to, words, sizeof words);
}
static inline unsigned vq_any4(const vq *w) { /* a bit for each lane that has a word other than 0 */
    unsigned any = 0;
    EACH(4)
        any |= (unsigned)((uint32_t)(w[0].lane[l] | w[1].lane[l] | w[2].lane[l] | w[3].lane[l]) != 0)
               << l;
    return any;
}

/* ---- applying them, and products ---- */

typedef uint32_t sel_t;
static inline sel_t sel_set(uint32_t bits) {
    return bits;
}
static inline void stream_fence(void) {
}

#define PICKS 0

#define REAL(T, U, S, N)                                                                         \
    typedef struct {                                                                             \
        T lane[N];                                                                               \
    } v_##S##_vec;                                                                               \
    static inline v_##S##_vec v_##S##_set1(T a) {                                                \
        v_##S##_vec r;                                                                           \
        EACH(N) r.lane[l] = a;                                                                   \
        return r;                                                                                \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_zero(void) {                                               \
        return v_##S##_set1((T)0);                                                               \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_load(const T *p) {                                         \
        v_##S##_vec r;                                                                           \
        memcpy(r.lane, p, sizeof r.lane);                                                        \
        return r;                                                                                \
    }                                                                                            \
    static inline void v_##S##_store(T *p, v_##S##_vec a) {                                      \
        memcpy(p, a.lane, sizeof a.lane);                                                        \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_add(v_##S##_vec a, v_##S##_vec b) {                        \
        EACH(N) a.lane[l] += b.lane[l];                                                          \
        return a;                                                                                \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_mul(v_##S##_vec a, v_##S##_vec b) {                        \
        EACH(N) a.lane[l] *= b.lane[l];                                                          \
        return a;                                                                                \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_if_positive(v_##S##_vec y, v_##S##_vec a) {                \
        EACH(N) a.lane[l] = y.lane[l] > (T)0 ? a.lane[l] : (T)0;                                 \
        return a;                                                                                \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_fma(v_##S##_vec a, v_##S##_vec b, v_##S##_vec c) {         \
        EACH(N) c.lane[l] += a.lane[l] * b.lane[l];                                              \
        return c;                                                                                \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_keep_mul(sel_t sel, int j, v_##S##_vec a, v_##S##_vec b) { \
        EACH(N) { /* without a branch, which a mask would mispredict half the time */            \
            const T product = a.lane[l] * b.lane[l];                                             \
            U bits;                                                                              \
            memcpy(&bits, &product, sizeof bits);                                                \
            bits &= (U)0 - (U)(sel >> (j * N + l) & 1);                                          \
            memcpy(&a.lane[l], &bits, sizeof bits);                                              \
        }                                                                                        \
        return a;                                                                                \
    }                                                                                            \
    static inline T v_##S##_mul1(T a, T b) {                                                     \
        return a * b;                                                                            \
    }                                                                                            \
    static inline v_##S##_vec v_##S##_relu(v_##S##_vec a) {                                      \
        EACH(N) a.lane[l] = a.lane[l] <= (T)0 ? (T)0 : a.lane[l];                                \
        return a;                                                                                \
    }                                                                                            \
    static inline void v_##S##_transpose(v_##S##_vec *v) {                                       \
        for (int r = 1; r < N; ++r)                                                              \
            for (int c = 0; c < r; ++c) {                                                        \
                const T below = v[r].lane[c];                                                    \
                v[r].lane[c] = v[c].lane[r];                                                     \
                v[c].lane[r] = below;                                                            \
            }                                                                                    \
    }

#define v_f32_LANES 8
#define v_f32_ROWS 4
#define v_f32_COLUMNS 1
REAL(float, uint32_t, f32, 8)

#define v_f64_LANES 4
#define v_f64_ROWS 4
#define v_f64_COLUMNS 1
REAL(double, uint64_t, f64, 4)

#define v_f32_stream v_f32_store
#define v_f64_stream v_f64_store

#define HALF(S)                                                    \
    typedef v_f32_vec v_##S##_vec;                                 \
    static inline v_f32_vec v_##S##_load(const uint16_t *p) {      \
        v_f32_vec r;                                               \
        EACH(8) r.lane[l] = cdrop_widen_##S(p[l]);                 \
        return r;                                                  \
    }                                                              \
    static inline void v_##S##_store(uint16_t *p, v_f32_vec a) {   \
        EACH(8) p[l] = cdrop_narrow_##S(a.lane[l]);                \
    }                                                              \
    static inline uint16_t v_##S##_mul1(uint16_t a, float scale) { \
        return cdrop_narrow_##S(cdrop_widen_##S(a) * scale);       \
    }

#define v_f16_LANES 8
#define v_f16_set1 v_f32_set1
#define v_f16_keep_mul v_f32_keep_mul
#define v_f16_stream v_f16_store
HALF(f16)

#define v_bf16_LANES 8
#define v_bf16_set1 v_f32_set1
#define v_bf16_keep_mul v_f32_keep_mul
#define v_bf16_stream v_bf16_store
HALF(bf16)

/* a * b + c, fused as in V(fma). */
#define FUSED_F32(a, b, c) ((a) * (b) + (c))
#define FUSED_F64(a, b, c) ((a) * (b) + (c))

#include "generic/kernels.inc.h"
