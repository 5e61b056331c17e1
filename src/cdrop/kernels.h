/* The table of kernels: one filled-in copy per instruction set, chosen at run time.
 *
 * Conventions
 *   - every pointer is IN (const) or OUT; `out` may be the input where a kernel says so;
 *   - kernels are serial and never allocate, print or abort; drivers own threads and memory;
 *   - bits are packed little-endian, one an element, addressed as (bits, first bit);
 *   - dtype last in a name: f32, f64, f16 (IEEE half, as uint16_t), bf16 (as uint16_t).
 */
#ifndef CDROP_KERNELS_H
#define CDROP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "bits.h"
#include "dropcore/philox.h"

typedef struct {
    dropcore_address address;
    uint64_t threshold; /* 33 bits: kept iff u32 < threshold */
} cdrop_draw;

/* How many planes a decision can take, down to the lowest one of the threshold: 0 ... 32. */
CDROP_INLINE unsigned cdrop_planes(uint64_t threshold) {
    const int some = threshold > 0 && threshold < DROPCORE_KEEP_ALL;
    return some ? DROPCORE_PLANES - cdrop_lowest_bit(threshold) : 0;
}

/* The permutation of [0, n) at an address: round r pairs the numbers whose sum is sum[r] modulo n. A
 * round is the low end of the address' last word. */
#define CDROP_PERMUTATION_STREAMS (1u << 21)
#define CDROP_PERMUTATION_ROUNDS 95 /* at most */
typedef struct {
    dropcore_address address;
    uint64_t n; /* in [1, 2^63) */
    unsigned rounds;
    uint64_t sum[CDROP_PERMUTATION_ROUNDS];
} cdrop_permutation;

/* One factor of a product, seen as panel axis x depth axis (the depth is summed over).
 * Element (p, d) is data[P(p) * panel_stride + D(d) * depth_stride], P and D through the lists
 * of kept indices where they are given, and is dropped where its bit is 0. */
typedef struct {
    const void *data;
    int64_t panel_stride, depth_stride; /* in elements; one of them is 1 */
    const int64_t *panel_index;         /* kept indices, or NULL for all */
    const int64_t *depth_index;
    const uint8_t *bits; /* or NULL: nothing dropped */
    int64_t bit_first, bit_panel_stride, bit_depth_stride;
    double scale;
} cdrop_factor;

/* Patches of images (batch, height, width, channels), contiguous: one for each position of the output
 * (batch, out_height, out_width), of kernel_height * kernel_width * taken numbers, of which the
 * channels [first_channel, first_channel + taken) are seen. Outside of the image there are zeros. */
typedef struct {
    const void *data;
    int64_t height, width, channels, first_channel, taken;
    int64_t out_height, out_width, kernel_height, kernel_width;
    int64_t stride_height, stride_width, dilation_height, dilation_width;
    int64_t pad_before_height, pad_before_width; /* padding above and to the left; may be negative */
} cdrop_patches;

/* A block of a convolution whose groups are small: some rows, or a part of a row, of the positions of
 * an image, and a vector of the columns, which are the maps of all groups. planes.inc.h. */
typedef struct {
    cdrop_patches patches;
    int64_t maps, columns;          /* of a group, and all */
    int64_t slots, width;           /* rows and pixels under the kernel of a row of the block */
    int64_t image, row, rows, left, wide, column;
} cdrop_plane;

/* Windows over images (batch, height, width, channels): one for each (batch, out_height, out_width).
 * lengths__batch, if it is not NULL, says how much of the width of each image there is. */
typedef struct {
    int64_t height, width, channels, out_height, out_width, kernel_height, kernel_width;
    int64_t stride_height, stride_width;
    int64_t pad_before_height, pad_before_width;
    const int64_t *lengths;
    int count_padding; /* an average is over all of the window, padding among it */
} cdrop_pool;

/* Memory that will be needed next, to be fetched on the way: rows of `bytes`, perhaps only some. */
typedef struct cdrop_ahead {
    const char *data;
    int64_t rows, bytes, stride;     /* stride in bytes */
    const int64_t *index;            /* which rows, or NULL for all */
    const struct cdrop_ahead *also;  /* or NULL */
} cdrop_ahead;

/* The rules of updates, and their states m, v and d: a state in brackets may be NULL.
 *
 *   rule       m                 v               d            numbers
 *   SGD                          [velocity]                   rate momentum decay nesterov
 *   ADAM       mean              mean square                  rate beta_1 beta_2 rests scale
 *                                                             epsilon keep
 *   RMSPROP    [mean]            mean square     [velocity]   rate beta_2 rest_2 epsilon momentum
 *   ADAGRAD                      sum of squares               rate epsilon
 *   ADADELTA   mean square of    mean square                  rate beta_2 rest_2 epsilon
 *              the changes
 */
enum { CDROP_SGD, CDROP_ADAM, CDROP_RMSPROP, CDROP_ADAGRAD, CDROP_ADADELTA, CDROP_RULES };

/* rest = 1 - beta. In Adam rate = learning rate / (1 - beta_1^step), scale =
 * 1 / sqrt(1 - beta_2^step) and keep = 1 - learning rate * decoupled decay. */
typedef struct {
    double rate, momentum, decay, beta_1, beta_2, rest_1, rest_2, scale, epsilon, keep;
    int nesterov;
} cdrop_hyperparameters;

#define CDROP_FOR_REAL_TYPES(X) X(float, float, f32) X(double, double, f64)
/* Update in place: optimizer.inc.h. g is NULL where it is all zero; square, if it is not NULL,
 * takes in the squares of the new weights. */
#define CDROP_UPDATE(T, C, S)                                                                    \
    typedef void (*cdrop_update_##S)(size_t n, const cdrop_hyperparameters *hyperparameters, const T *g, T *m, T *v, \
                                     T *d, T *w, double *square);
CDROP_FOR_REAL_TYPES(CDROP_UPDATE)
#undef CDROP_UPDATE
#define CDROP_FOR_TYPES(X) \
    CDROP_FOR_REAL_TYPES(X) X(uint16_t, float, f16) X(uint16_t, float, bf16)

/* Groups with a threshold for each element that are decided at a time, and where that of an element
 * is: element 32 q + r is in column q of row r. */
#define CDROP_EACH_GROUPS 4
#define CDROP_EACH_PLACE(e) ((e) % 32 * (4 * CDROP_EACH_GROUPS) + (e) / 32)

/* Columns that are made shorter at a time. */
#define CDROP_CLIP_COLUMNS 256

/* Elementwise activations: activation.inc.h. */
#define CDROP_FOR_ACTIVATIONS(X)                                                                 \
    X(RELU, relu) X(LEAKY_RELU, leaky_relu) X(ELU, elu) X(SELU, selu) X(GELU, gelu)               \
    X(GELU_TANH, gelu_tanh) X(SILU, silu) X(TANH, tanh) X(SIGMOID, sigmoid)                       \
    X(SOFTPLUS, softplus)
enum {
#define CDROP_KIND(KIND, name) CDROP_##KIND,
    CDROP_FOR_ACTIVATIONS(CDROP_KIND)
#undef CDROP_KIND
};

/* A sum along a row has this many parts, added in pairs at the end: more cost more in short rows. */
#define CDROP_SUMS 8

/* 1 / deviation below which float32 numbers may be so far apart that their difference overflows. */
#define CDROP_WIDE_SCALE 1e-35

/* The parts of a product whose weight mask differs by sample. */
enum { CDROP_DROPCONNECT_Y, CDROP_DROPCONNECT_DW, CDROP_DROPCONNECT_DX };

/* Columns of a tile of scores that are processed at a time, and n of them in whole steps. */
#define CDROP_TILE_STEP 32
#define CDROP_WHOLE_STEPS(n) (((n) + CDROP_TILE_STEP - 1) / CDROP_TILE_STEP * CDROP_TILE_STEP)

/* A tile of scores, queries by keys: rows of `columns` numbers, `stride` apart, which is at least
 * `columns` in whole steps. Of row r the first first_live + r * live_step are seen, and the weight of
 * column i is kept by bit bit + r * bit_stride + i; bits may be NULL. */
typedef struct {
    int64_t rows, columns, stride;
    int64_t first_live, live_step;
    const uint8_t *bits;
    uint64_t bit;
    int64_t bit_stride;
} cdrop_tile;

/* Recurrent cells: recurrent.inc.h. */
enum { CDROP_CELL_TANH, CDROP_CELL_RELU, CDROP_CELL_LSTM, CDROP_CELL_GRU };

typedef struct {
    const char *name;

    /* bits__n = 16 bytes a group for the groups [group, group + n_groups). */
    void (*decide)(const cdrop_draw *draw, uint64_t group, size_t n_groups, uint8_t *bits);
    /* The same of the groups of a list. */
    void (*decide_some)(const cdrop_draw *draw, const uint64_t *groups, size_t n_groups, uint8_t *bits);
    /* The same of at most CDROP_EACH_GROUPS groups with a threshold below 2^32 for each element e
     * of them, at CDROP_EACH_PLACE(e). Overwrites the thresholds. */
    void (*decide_each)(const dropcore_address *address, uint64_t group, size_t n_groups,
                        uint32_t *thresholds, uint8_t *bits);
    /* u32 of every element of those groups: 128 a group. */
    void (*uniform)(const dropcore_address *address, uint64_t group, size_t n_groups, uint32_t *u);
    /* The words of the blocks [block, block + n_blocks): four a block. */
    void (*words)(const dropcore_address *address, uint64_t block, size_t n_blocks, uint32_t *w);
    /* Replace each number by what the permutation has at this index; backwards, by the index where
     * the permutation has it. */
    void (*permute)(const cdrop_permutation *p, int backwards, size_t count, uint64_t *numbers);

#define CDROP_ELEMENTWISE(T, C, S)                                                              \
    /* out__n = bit ? x__n * scale : +0.0; out may be x; stream: stores pass by the cache. */    \
    void (*apply_##S)(size_t n, const uint8_t *bits, uint64_t bit, C scale, const T *x, T *out,  \
                      int stream);                                                              \
    /* The same with the bits drawn on the fly for the elements [index, index + n). */           \
    void (*dropout_##S)(const cdrop_draw *draw, uint64_t index, size_t n, C scale, const T *x,   \
                        T *out, int stream);
    CDROP_FOR_TYPES(CDROP_ELEMENTWISE)
#undef CDROP_ELEMENTWISE

#define CDROP_PRODUCT(T, C, S)                                                                  \
    int tile_rows_##S, tile_columns_##S; /* of the register tile: the widths of the panels */    \
    /* Factor (panel0 + 0..n_panel, depth0 + 0..n_depth) into panels of `width`. */              \
    void (*pack_##S)(const cdrop_factor *f, int64_t panel0, int64_t n_panel, int64_t depth0,     \
                     int64_t n_depth, int width, T *out);                                       \
    /* c__mn (+)= a__mk b__kn from packed panels; meanwhile `ahead` comes nearer. */             \
    void (*block_##S)(int64_t m, int64_t n, int64_t depth, const T *a, const T *b, T *c,         \
                      int64_t c_stride, int accumulate, const cdrop_ahead *ahead);              \
    /* The same with rows of a where they lie: lines__m along the depth, up to the next whole tile; \
     * or lines__depth across it, each at least the rows of a tile long. */                       \
    void (*block_along_##S)(int64_t m, int64_t n, int64_t depth, const T *const *lines,           \
                            const T *b, T *c, int64_t c_stride, int accumulate);                 \
    void (*block_across_##S)(int64_t m, int64_t n, int64_t depth, const T *const *lines,          \
                             const T *b, T *c, int64_t c_stride, int accumulate);                \
    /* lines__i = the numbers [depth0, depth0 + depth) of patch position0 + i: patches.inc.h. */  \
    void (*lines_##S)(const cdrop_patches *p, int64_t position0, int64_t n, int64_t depth0,       \
                      int64_t depth, int64_t room, T *staged, const T **lines);                  \
    int lanes_##S; /* of a vector */                                                             \
    /* A block of a convolution from its packed weights, and the gradient of these, added to dw.  \
     * `plane` has room for slots rows of (width * taken + 1) vectors, and of dz for `wide` more;  \
     * `offset` for the numbers of a patch. */                                                    \
    void (*plane_product_##S)(const cdrop_plane *b, const T *w, T *plane, int64_t *offset, T *c); \
    void (*plane_gradient_##S)(const cdrop_plane *b, const T *dz, T *plane, int64_t *offset,      \
                               T *dw);                                                            \
    /* Rows of the output of pooling: maxima with their argmax in the windows, or averages, where \
     * argmax is NULL; and back, an image at a time: pool.inc.h. */                               \
    void (*pool_##S)(const cdrop_pool *p, int64_t row0, int64_t rows, const T *x, T *y,           \
                     int32_t *argmax);                                                            \
    void (*pool_back_##S)(const cdrop_pool *p, int64_t image, const T *dy, const int32_t *argmax, \
                          T *dx);                                                                \
    /* c__mn = bit ? act(c__mn + bias__n) * scale : 0, act = relu or identity. bias and bits may  \
     * be NULL; bit (row, column) = bit + row * bit_stride + column. */                          \
    void (*epilogue_##S)(int64_t m, int64_t n, const T *bias, int relu, const uint8_t *bits,      \
                       uint64_t bit, int64_t bit_stride, T scale, T *c, int64_t c_stride);       \
    /* dz__n = y__n > 0 ? dy__n * scale : 0 and sum__n += dz__n: epilogue with relu, backwards.   \
     * Without relu y is NULL; dz may be dy, or NULL where only the sum is wanted. */             \
    void (*epilogue_backward_##S)(size_t n, T scale, const T *y, const T *dy, T *dz, T *sum);     \
    /* y__n += bit ? a * x__n : 0; bits may be NULL. */                                          \
    void (*axpy_##S)(size_t n, const uint8_t *bits, uint64_t bit, T a, const T *x, T *y);        \
    /* The elements [first, last) of one sample's own (K, N) weight mask: dropconnect.inc.h. */   \
    void (*dropconnect_##S)(int part, const cdrop_draw *draw, const uint8_t *bits, uint64_t index, \
                        int64_t first, int64_t last, int64_t n, const T *a__k, const T *b,       \
                        T *out);                                                                 \
    /* square__n += sum over the rows of w__rn^2, in float64. */                                  \
    void (*add_squares_##S)(int64_t rows, int64_t n, int64_t stride, const T *w, double *square); \
    /* sum over n of w__n^2, in float64. */                                                      \
    double (*sum_squares_##S)(size_t n, const T *w);                                             \
    /* w__rn *= factor__n in float64 and square__n += w__rn^2 where it is not 1;                  \
     * n <= CDROP_CLIP_COLUMNS. */                                                                \
    void (*shorten_##S)(int64_t rows, int64_t n, int64_t stride, const double *factor, T *w,     \
                        double *square);                                                         \
    /* y__n = f(x__n) of that kind, with parameter a; y may be x. */                             \
    void (*activate_##S)(int kind, size_t n, T a, const T *x, T *y);                             \
    /* dx__n = dy__n f'(x__n); saved is x for GELU, GELU_TANH and SILU, y for the others; dx may be \
     * dy or saved. */                                                                            \
    void (*activate_back_##S)(int kind, size_t n, T a, const T *saved, const T *dy, T *dx);       \
    /* y__rn = e^x__rn / sum over n of e^x__rn; y may be x. */                                   \
    void (*softmax_##S)(size_t rows, size_t n, const T *x, T *y);                                \
    /* dx__rn = y__rn (dy__rn - sum over n of y__rn dy__rn); dx may be dy. */                    \
    void (*softmax_back_##S)(size_t rows, size_t n, const T *y, const T *dy, T *dx);             \
    /* A tile of the softmax of attention, and back: attention.inc.h. */                        \
    void (*softmax_tile_##S)(const cdrop_tile *tile, T *x, T *top__r, T *total__r, T *shrink__r); \
    void (*softmax_tile_back_##S)(const cdrop_tile *tile, const T *level__r, const T *mean__r,   \
                                  T *x, T *dx);                                                  \
    /* Batch and layer normalisation, of rows of n numbers: normalization.inc.h. */              \
    void (*column_moments_##S)(size_t rows, size_t n, const T *x, double *mean, double *square);  \
    void (*map_columns_##S)(size_t rows, size_t n, const T *centre, const T *factor,              \
                            const T *offset, const T *x, T *y);                                  \
    void (*column_products_##S)(size_t rows, size_t n, const T *centre, const T *x, const T *dy,  \
                                double *sum, double *product);                                   \
    void (*map_columns_back_##S)(size_t rows, size_t n, const T *centre, const T *factor,         \
                                 const T *slope, const T *offset, const T *x, const T *dy,       \
                                 T *dx);                                                         \
    void (*normalize_rows_##S)(size_t rows, size_t n, double epsilon, const T *gamma,             \
                               const T *beta, const T *x, T *y, double *mean, double *scale);    \
    void (*normalize_rows_back_##S)(size_t rows, size_t n, const T *gamma, const double *mean,    \
                                    const double *scale, const T *x, const T *dy, T *dx,         \
                                    double *dgamma, double *dbeta);                              \
    /* z__n = the standard normals of noise words w__n: noise.inc.h. */                           \
    void (*normal_##S)(size_t n, const uint32_t *w, T *z);                                        \
    cdrop_update_##S update_##S[CDROP_RULES];                                                    \
    /* SGD of some columns of v__n and w__n, with their gradient g__columns. */                   \
    void (*sgd_some_##S)(size_t columns, const int64_t *column, const cdrop_hyperparameters *hyperparameters, \
                         const T *g, T *v, T *w);                                                \
    /* One step of a recurrent cell of n units, and back: recurrent.inc.h. */                    \
    void (*cell_##S)(int kind, size_t n, T *gates, T *extra, const T *bias, const T *kept, T *h, \
                     T *c);                                                                      \
    void (*cell_back_##S)(int kind, size_t n, const T *gates, const T *extra, const T *kept,      \
                       const T *dh, T *dkept, T *dgates, T *dback);                              \
    /* out__n = bit ? fresh__n : old__n, without bits fresh__n share + old__n (1 - share); out   \
     * may be old. And back: d, in whole, out of old. */                                         \
    void (*mix_##S)(size_t n, const uint8_t *bits, uint64_t bit, T share, const T *fresh,        \
                    const T *old, T *out);                                                       \
    void (*mix_back_##S)(size_t n, const uint8_t *bits, uint64_t bit, T share, T *d, T *dfresh);
    CDROP_FOR_REAL_TYPES(CDROP_PRODUCT)
#undef CDROP_PRODUCT
} cdrop_kernels;

#endif
