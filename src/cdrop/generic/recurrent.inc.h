/* One step of a recurrent cell for one sequence, forward and backward. Included once per real
 * dtype. The products with the weights are made outside; gates lie one behind the other, n of each.
 *
 *   CDROP_CELL_TANH, CDROP_CELL_RELU   h = act(a)
 *   CDROP_CELL_LSTM   i, f, o = sigmoid, g = tanh of a;  c' = f c + i g;  h = o tanh(c')
 *                (Hochreiter and Schmidhuber 1997; Gers et al. 2000)
 *   CDROP_CELL_GRU    z, r = sigmoid of a;  n = tanh(a_n + r (q + bias));  h = (1 - z) n + z h_before
 *                with q, the recurrent part of n's product (Cho et al. 2014)
 */

static inline void F(lstm)(size_t n, T *restrict i, T *restrict f, T *restrict g, T *restrict o,
                           const T *restrict before, T *restrict tanh_c, T *restrict h,
                           T *restrict c) {
    for (size_t u = 0; u < n; ++u) {
        const T input = F(sigmoid_of)(i[u]), forget = F(sigmoid_of)(f[u]);
        const T fresh = F(tanh_of)(g[u]), output = F(sigmoid_of)(o[u]);
        const T cell = forget * before[u] + input * fresh, squashed = F(tanh_of)(cell);
        i[u] = input;
        f[u] = forget;
        g[u] = fresh;
        o[u] = output;
        c[u] = cell;
        tanh_c[u] = squashed;
        h[u] = output * squashed;
    }
}

static inline void F(gru)(size_t n, T *restrict z, T *restrict r, T *restrict a, T *restrict q,
                          const T *restrict bias, const T *restrict before, T *restrict h) {
    for (size_t u = 0; u < n; ++u) {
        const T update = F(sigmoid_of)(z[u]), reset = F(sigmoid_of)(r[u]);
        const T inner = q[u] + bias[u], fresh = F(tanh_of)(a[u] + reset * inner);
        z[u] = update;
        r[u] = reset;
        a[u] = fresh;
        q[u] = inner;
        h[u] = ((T)1 - update) * fresh + update * before[u];
    }
}

static inline void F(simple)(size_t n, int relu, T *restrict a, T *restrict h) {
    if (relu)
        for (size_t u = 0; u < n; ++u) h[u] = a[u] = a[u] <= (T)0 ? (T)0 : a[u]; /* a NaN stays */
    else
        for (size_t u = 0; u < n; ++u) h[u] = a[u] = F(tanh_of)(a[u]);
}

/* gates: in what the products give, out the activations. kept: what the cell carries on, c of LSTM
 * and h of GRU. extra: out tanh(c') of LSTM; in q, out q + bias of GRU. */
static void F(cell)(int kind, size_t n, T *gates, T *extra, const T *bias, const T *kept, T *h, T *c) {
    if (kind == CDROP_CELL_LSTM)
        F(lstm)(n, gates, gates + n, gates + 2 * n, gates + 3 * n, kept, extra, h, c);
    else if (kind == CDROP_CELL_GRU)
        F(gru)(n, gates, gates + n, gates + 2 * n, extra, bias, kept, h);
    else
        F(simple)(n, kind == CDROP_CELL_RELU, gates, h);
}

static inline void F(lstm_back)(size_t n, const T *restrict i, const T *restrict f,
                                const T *restrict g, const T *restrict o,
                                const T *restrict tanh_c, const T *restrict before,
                                const T *restrict dh, T *restrict dc, T *restrict di,
                                T *restrict df, T *restrict dg, T *restrict d_o) {
    for (size_t u = 0; u < n; ++u) {
        const T through = dh[u] * o[u];
        const T cell = dc[u] + (through - through * tanh_c[u] * tanh_c[u]);
        di[u] = cell * g[u] * i[u] * ((T)1 - i[u]);
        df[u] = cell * before[u] * f[u] * ((T)1 - f[u]);
        dg[u] = cell * i[u] * ((T)1 - g[u] * g[u]);
        d_o[u] = dh[u] * tanh_c[u] * o[u] * ((T)1 - o[u]);
        dc[u] = cell * f[u];
    }
}

static inline void F(gru_back)(size_t n, const T *restrict z, const T *restrict r,
                               const T *restrict fresh, const T *restrict inner,
                               const T *restrict before, const T *restrict dh, T *restrict dkept,
                               T *restrict dz, T *restrict dr, T *restrict da, T *restrict dz_h,
                               T *restrict dr_h, T *restrict dq) {
    for (size_t u = 0; u < n; ++u) {
        const T a = dh[u] * ((T)1 - z[u]) * ((T)1 - fresh[u] * fresh[u]);
        const T update = dh[u] * (before[u] - fresh[u]) * z[u] * ((T)1 - z[u]);
        const T reset = a * inner[u] * r[u] * ((T)1 - r[u]);
        dz[u] = dz_h[u] = update;
        dr[u] = dr_h[u] = reset;
        da[u] = a;
        dq[u] = a * r[u];
        dkept[u] = dh[u] * z[u];
    }
}

static inline void F(simple_back)(size_t n, int relu, const T *restrict h, const T *restrict dh,
                                  T *restrict da) {
    if (relu)
        for (size_t u = 0; u < n; ++u) da[u] = h[u] > (T)0 ? dh[u] : (T)0;
    else
        for (size_t u = 0; u < n; ++u) da[u] = dh[u] * ((T)1 - h[u] * h[u]);
}

/* The gradients of what the products gave: dgates of the input's product, dback of the recurrent
 * one, which differs for GRU only. dkept: LSTM in that of c', out that of kept; GRU out. */
static void F(cell_back)(int kind, size_t n, const T *gates, const T *extra, const T *kept, const T *dh,
                      T *dkept, T *dgates, T *dback) {
    if (kind == CDROP_CELL_LSTM)
        F(lstm_back)(n, gates, gates + n, gates + 2 * n, gates + 3 * n, extra, kept, dh, dkept,
                     dgates, dgates + n, dgates + 2 * n, dgates + 3 * n);
    else if (kind == CDROP_CELL_GRU)
        F(gru_back)(n, gates, gates + n, gates + 2 * n, extra, kept, dh, dkept, dgates, dgates + n,
                    dgates + 2 * n, dback, dback + n, dback + 2 * n);
    else
        F(simple_back)(n, kind == CDROP_CELL_RELU, gates, dh, dgates);
}

/* Zoneout: out = bit ? fresh : old, or without bits their mixture by `share` of fresh; out may be
 * old. (Krueger et al. 2017) */
static void F(mix)(size_t n, const uint8_t *bits, uint64_t bit, T share, const T *fresh,
                   const T *old, T *out) {
    const V(vec) s = V(set1)(bits ? (T)1 : share), rest = V(set1)(bits ? (T)1 : (T)1 - share);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const uint32_t word = bits ? cdrop_load_bits32(bits, bit + i) : 0;
        const sel_t sel = sel_set(bits ? word : 0xFFFFFFFFu), other = sel_set(~word);
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const size_t at = i + (size_t)j * V(LANES);
            V(store)(out + at, V(add)(V(keep_mul)(sel, j, V(load)(fresh + at), s),
                                      V(keep_mul)(other, j, V(load)(old + at), rest)));
        }
    }
    for (; i < n; ++i)
        out[i] = bits ? (cdrop_bit(bits, bit + i) ? fresh[i] : old[i]) + (T)0
                      : fresh[i] * share + old[i] * ((T)1 - share);
}

/* Its gradient d, parted: dfresh = bit ? d : 0 and d = bit ? 0 : d, or by share. */
static void F(mix_back)(size_t n, const uint8_t *bits, uint64_t bit, T share, T *d, T *dfresh) {
    const V(vec) s = V(set1)(bits ? (T)1 : share), rest = V(set1)(bits ? (T)1 : (T)1 - share);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const uint32_t word = bits ? cdrop_load_bits32(bits, bit + i) : 0;
        const sel_t sel = sel_set(bits ? word : 0xFFFFFFFFu), other = sel_set(~word);
        UNROLL
        for (int j = 0; j < 32 / V(LANES); ++j) {
            const V(vec) whole = V(load)(d + i + j * V(LANES));
            V(store)(dfresh + i + j * V(LANES), V(keep_mul)(sel, j, whole, s));
            V(store)(d + i + j * V(LANES), V(keep_mul)(other, j, whole, rest));
        }
    }
    for (; i < n; ++i) {
        const int kept = !bits || cdrop_bit(bits, bit + i), left = !bits || !kept;
        dfresh[i] = kept ? d[i] * (bits ? (T)1 : share) : (T)0;
        d[i] = left ? d[i] * (bits ? (T)1 : (T)1 - share) : (T)0;
    }
}
