/* Attention of one head, tile by tile. Included once per real dtype, by attention.c. */

/* What a thread works in. Panels are as wide as the register tile, zeros behind their end. */
typedef struct {
    int64_t batch, key_head;              /* of k and v, forward; batch < 0: nothing is packed */
    T *k, *v;                             /* packed for the whole call or the part of it */
    T *k_back;                            /* k as the right factor of dq */
    T *q, *dout;                          /* rows of a tile, as left factors */
    T *q_right, *dout_right;              /* the same as right factors */
    T *scores, *dscores, *sums;
    T *top, *total, *shrink, *mean;
    const T **lines, **dlines;
    uint8_t *bits;
} F(room);

typedef struct {
    char *at; /* NULL while it is only measured */
    size_t used;
} F(carver);

static void *F(carve)(F(carver) *c, size_t bytes) {
    void *here = c->at ? c->at + c->used : NULL;
    c->used += (bytes + 63) / 64 * 64;
    return here;
}

static T *F(carve_numbers)(F(carver) *c, int64_t n) {
    return (T *)F(carve)(c, (size_t)n * sizeof(T));
}

/* Rows of a tile, whole register tiles, and the distance of its rows, which is no power of two:
 * rows that far apart would share few sets of the cache. */
static int64_t F(tile_queries)(void) {
    return CDROP_TILE_QUERIES / KERNEL(tile_rows) * KERNEL(tile_rows);
}

#define TILE_STRIDE (CDROP_TILE_KEYS + CDROP_TILE_STEP)

static size_t F(lay_out)(const cdrop_attention *a, int backward, F(room) *r, char *at) {
    F(carver) c = {at, 0};
    const int64_t width = KERNEL(tile_columns), rows = F(tile_queries)();
    const int64_t keys = rounded_up(backward ? smaller(a->keys, cdrop_attention_part(a)) : a->keys,
                                    width);
    const int64_t size = rounded_up(a->size, width), value = rounded_up(a->value_size, width);
    F(carve)(&c, sizeof *r);
    r->k = F(carve_numbers)(&c, keys * a->size);
    r->v = F(carve_numbers)(&c, keys * (backward ? a->value_size : value));
    r->q = F(carve_numbers)(&c, rows * a->size);
    r->scores = F(carve_numbers)(&c, rows * TILE_STRIDE);
    r->top = F(carve_numbers)(&c, rows);
    r->lines = (const T **)F(carve)(&c, (size_t)rows * sizeof(T *));
    r->bits = (uint8_t *)F(carve)(&c, bytes_of_bits(a));
    if (backward) {
        r->k_back = F(carve_numbers)(&c, keys * size);
        r->dout = F(carve_numbers)(&c, rows * a->value_size);
        r->q_right = F(carve_numbers)(&c, rows * size);
        r->dout_right = F(carve_numbers)(&c, rows * value);
        r->dscores = F(carve_numbers)(&c, rows * TILE_STRIDE);
        r->mean = F(carve_numbers)(&c, rows);
        r->dlines = (const T **)F(carve)(&c, (size_t)rows * sizeof(T *));
    } else {
        r->sums = F(carve_numbers)(&c, rows * value);
        r->total = F(carve_numbers)(&c, rows);
        r->shrink = F(carve_numbers)(&c, rows);
    }
    return c.used;
}

size_t F(cdrop_attention_room)(const cdrop_attention *a, int backward) {
    F(room) r;
    return F(lay_out)(a, backward, &r, NULL);
}

void F(cdrop_attention_begin)(void *room) {
    ((F(room) *)room)->batch = -1;
}

static F(room) *F(enter)(const cdrop_attention *a, int backward, void *room) {
    F(room) *r = (F(room) *)room;
    F(lay_out)(a, backward, r, (char *)room);
    for (int64_t i = 0; i < F(tile_queries)(); ++i) {
        r->lines[i] = r->scores + i * TILE_STRIDE;
        if (backward) r->dlines[i] = r->dscores + i * TILE_STRIDE;
    }
    return r;
}

static T *F(head_of)(const cdrop_heads *x, int64_t batch, int64_t head) {
    return (T *)x->data + batch * x->batch + head * x->head;
}

/* Rows of one head as a factor: packed by rows (left factors, and those that are transposed), or by
 * columns with the rows summed over. */
static cdrop_factor F(factor)(const cdrop_heads *x, int64_t batch, int64_t head, int by_rows,
                              double scale) {
    cdrop_factor f = {0};
    f.data = F(head_of)(x, batch, head);
    f.panel_stride = by_rows ? x->row : 1;
    f.depth_stride = by_rows ? 1 : x->row;
    f.scale = scale;
    return f;
}

/* c__mn (+)= rows of a tile, along them or across, times a packed factor whose panels lie `room`
 * depths long, of which the first `depth` are summed. */
static void F(times)(int across, int64_t m, int64_t n, int64_t depth, const T *const *lines,
                     const T *b, int64_t room, T *c, int64_t c_stride, int accumulate) {
    const int64_t width = KERNEL(tile_columns);
    for (int64_t j = 0; j < n; j += width)
        (across ? KERNEL(block_across) : KERNEL(block_along))(
            m, smaller(width, n - j), depth, lines, b + j * room, c + j, c_stride, accumulate);
}

/* Scores of packed rows of q with `columns` keys from packed k on, and bias. */
static void F(scores)(const cdrop_attention *a, int64_t batch, int64_t head, int64_t row,
                      int64_t key, const T *k, const cdrop_tile *tile, F(room) *r) {
    KERNEL(block)(rounded_up(tile->rows, KERNEL(tile_rows)),
                  rounded_up(tile->columns, KERNEL(tile_columns)), a->size, r->q, k, r->scores,
                  TILE_STRIDE, 0, NULL);
    if (!a->bias.data) return;
    const T *bias = F(head_of)(&a->bias, batch, head) + row * a->bias.row + key;
    for (int64_t i = 0; i < tile->rows; ++i, bias += a->bias.row) {
        T *to = r->scores + i * TILE_STRIDE;
        for (int64_t j = 0; j < tile->columns; ++j) to[j] += bias[j] * (T)LOG2_E;
    }
}

/* The tile of the rows [row, row + rows) with the keys from `key` to `end`. */
static void F(place)(const cdrop_attention *a, int64_t row, int64_t key, int64_t end,
                     cdrop_tile *tile) {
    tile->columns = smaller(end - key, CDROP_TILE_KEYS);
    tile->stride = TILE_STRIDE;
    tile->first_live = a->causal ? row + 1 - key : end - key;
    tile->live_step = a->causal;
}

static void F(times_each)(T *x, int64_t rows, int64_t n, const T *factor) {
    for (int64_t i = 0; i < rows; ++i)
        if (factor[i] != (T)1)
            for (int64_t d = 0; d < n; ++d) x[i * n + d] *= factor[i];
}

static void F(pack_forward)(const cdrop_attention *a, int64_t batch, int64_t key_head,
                            int64_t keys, F(room) *r) {
    const int width = KERNEL(tile_columns);
    const int64_t value = rounded_up(a->value_size, width);
    const cdrop_factor k = F(factor)(&a->k, batch, key_head, 1, 1.0);
    const cdrop_factor v = F(factor)(&a->v, batch, key_head, 0, 1.0);
    KERNEL(pack)(&k, 0, keys, 0, a->size, width, r->k);
    for (int64_t key = 0; key < keys; key += CDROP_TILE_KEYS)
        KERNEL(pack)(&v, 0, a->value_size, key, smaller(CDROP_TILE_KEYS, keys - key), width,
                     r->v + key * value);
    r->batch = batch;
    r->key_head = key_head;
}

void F(cdrop_attend)(const cdrop_attention *a, int64_t batch, int64_t head, int64_t first,
                     int64_t last, const cdrop_heads *out, T *logsumexp, void *room) {
    F(room) *r = F(enter)(a, 0, room);
    const int64_t key_head = head / (a->heads / a->key_heads);
    const int64_t all = keys_seen(a, batch, a->queries);
    const int64_t value = rounded_up(a->value_size, KERNEL(tile_columns));
    const cdrop_factor q = F(factor)(&a->q, batch, head, 1, a->scale * LOG2_E);
    const double keep_scale = a->dropped ? a->keep_scale : 1.0;
    if (r->batch != batch || r->key_head != key_head) F(pack_forward)(a, batch, key_head, all, r);
    for (int64_t row = first; row < last; row += F(tile_queries)()) {
        const int64_t rows = smaller(F(tile_queries)(), last - row);
        const int64_t whole = rounded_up(rows, KERNEL(tile_rows));
        const int64_t end = keys_seen(a, batch, row + rows);
        cdrop_tile tile = {.rows = rows};
        bits_of_rows(a, batch, head, row, rows, 0, end, r->bits, &tile);
        KERNEL(pack)(&q, row, rows, 0, a->size, KERNEL(tile_rows), r->q);
        memset(r->sums, 0, (size_t)(whole * value) * sizeof(T));
        for (int64_t i = 0; i < rows; ++i) {
            r->top[i] = -(T)INFINITY;
            r->total[i] = (T)0;
        }
        for (int64_t key = 0; key < end; key += CDROP_TILE_KEYS) {
            const int64_t packed = smaller(CDROP_TILE_KEYS, all - key);
            F(place)(a, row, key, end, &tile);
            F(scores)(a, batch, head, row, key, r->k + key * a->size, &tile, r);
            KERNEL(softmax_tile)(&tile, r->scores, r->top, r->total, r->shrink);
            F(times_each)(r->sums, rows, value, r->shrink);
            F(times)(0, whole, value, tile.columns, r->lines,
                     r->v + key * value, packed, r->sums, value, 1);
            tile.bit += CDROP_TILE_KEYS;
        }
        for (int64_t i = 0; i < rows; ++i) {
            const T total = r->total[i], factor = total == (T)0 ? (T)0 : (T)keep_scale / total;
            T *to = F(head_of)(out, batch, head) + (row + i) * out->row;
            for (int64_t d = 0; d < a->value_size; ++d) to[d] = r->sums[i * value + d] * factor;
            if (logsumexp)
                logsumexp[(batch * a->heads + head) * a->queries + row + i] =
                    (T)(((double)r->top[i] + log2((double)total)) * LOG_2);
        }
    }
}

/* k as right factor of scores and of dq, and v as right factor of the gradient of weights. */
static void F(pack_backward)(const cdrop_attention *a, int64_t batch, int64_t key_head,
                             int64_t first, int64_t last, F(room) *r) {
    const int width = KERNEL(tile_columns);
    const int64_t size = rounded_up(a->size, width);
    const cdrop_factor k = F(factor)(&a->k, batch, key_head, 1, 1.0);
    const cdrop_factor v = F(factor)(&a->v, batch, key_head, 1, 1.0);
    const cdrop_factor k_back = F(factor)(&a->k, batch, key_head, 0, a->scale);
    KERNEL(pack)(&k, first, last - first, 0, a->size, width, r->k);
    KERNEL(pack)(&v, first, last - first, 0, a->value_size, width, r->v);
    for (int64_t key = first; key < last; key += CDROP_TILE_KEYS)
        KERNEL(pack)(&k_back, 0, a->size, key, smaller(CDROP_TILE_KEYS, last - key), width,
                     r->k_back + (key - first) * size);
}

/* The sum of x__n y__n in float64, in parts that do not wait for each other. */
static double F(inner)(int64_t n, const T *x, const T *y) {
    double part[8] = {0.0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; ++j) part[j] += (double)x[i + j] * (double)y[i + j];
    for (; i < n; ++i) part[0] += (double)x[i] * (double)y[i];
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

/* Some rows of q and dout as left and right factors, and what the softmax has left of them. */
static void F(pack_rows)(const cdrop_attention *a, int64_t batch, int64_t head, int64_t row,
                         int64_t rows, const cdrop_heads *out, const cdrop_heads *dout,
                         const T *logsumexp, F(room) *r) {
    const int width = KERNEL(tile_columns), high = KERNEL(tile_rows);
    const double keep_scale = a->dropped ? a->keep_scale : 1.0;
    const cdrop_factor q = F(factor)(&a->q, batch, head, 1, a->scale * LOG2_E);
    const cdrop_factor q_right = F(factor)(&a->q, batch, head, 0, a->scale);
    const cdrop_factor d = F(factor)(dout, batch, head, 1, keep_scale);
    const cdrop_factor d_right = F(factor)(dout, batch, head, 0, keep_scale);
    const T *y = F(head_of)(out, batch, head) + row * out->row;
    const T *dy = F(head_of)(dout, batch, head) + row * dout->row;
    logsumexp += (batch * a->heads + head) * a->queries + row;
    KERNEL(pack)(&q, row, rows, 0, a->size, high, r->q);
    KERNEL(pack)(&d, row, rows, 0, a->value_size, high, r->dout);
    KERNEL(pack)(&q_right, 0, a->size, row, rows, width, r->q_right);
    KERNEL(pack)(&d_right, 0, a->value_size, row, rows, width, r->dout_right);
    for (int64_t i = 0; i < rows; ++i, y += out->row, dy += dout->row) {
        r->mean[i] = (T)F(inner)(a->value_size, y, dy);
        r->top[i] = (T)((double)logsumexp[i] * LOG2_E);
    }
}

void F(cdrop_attend_back)(const cdrop_attention *a, int64_t batch, int64_t key_head, int64_t first,
                          int64_t last, const cdrop_heads *out, const cdrop_heads *dout,
                          const T *logsumexp, const cdrop_heads *dk, const cdrop_heads *dv, T *dq,
                          int64_t dq_head, int64_t dq_row, void *room) {
    F(room) *r = F(enter)(a, 1, room);
    const int64_t group = a->heads / a->key_heads, live = keys_seen(a, batch, a->queries);
    const int64_t size = rounded_up(a->size, KERNEL(tile_columns));
    const int64_t step = F(tile_queries)(), end_of_part = smaller(last, live);
    T *to_k = F(head_of)(dk, batch, key_head), *to_v = F(head_of)(dv, batch, key_head);
    for (int64_t key = first; key < last; ++key) {
        memset(to_k + key * dk->row, 0, (size_t)a->size * sizeof(T));
        memset(to_v + key * dv->row, 0, (size_t)a->value_size * sizeof(T));
    }
    for (int64_t head = 0; head < group; ++head)
        for (int64_t row = 0; row < a->queries; ++row)
            memset(dq + head * dq_head + row * dq_row, 0, (size_t)a->size * sizeof(T));
    if (first >= end_of_part) return;
    F(pack_backward)(a, batch, key_head, first, end_of_part, r);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head, dq += dq_head)
        for (int64_t row = a->causal ? first : 0; row < a->queries; row += step) {
            const int64_t rows = smaller(step, a->queries - row);
            const int64_t whole = rounded_up(rows, KERNEL(tile_rows));
            const int64_t end = smaller(end_of_part, keys_seen(a, batch, row + rows));
            cdrop_tile tile = {.rows = rows};
            bits_of_rows(a, batch, head, row, rows, first, end, r->bits, &tile);
            F(pack_rows)(a, batch, head, row, rows, out, dout, logsumexp, r);
            for (int64_t key = first; key < end; key += CDROP_TILE_KEYS) {
                const int64_t packed = smaller(CDROP_TILE_KEYS, end_of_part - key);
                F(place)(a, row, key, end, &tile);
                F(scores)(a, batch, head, row, key, r->k + (key - first) * a->size, &tile, r);
                KERNEL(block)(whole, rounded_up(tile.columns, KERNEL(tile_columns)), a->value_size,
                              r->dout, r->v + (key - first) * a->value_size, r->dscores,
                              TILE_STRIDE, 0, NULL);
                KERNEL(softmax_tile_back)(&tile, r->top, r->mean, r->scores, r->dscores);
                F(times)(0, rows, a->size, tile.columns, r->dlines, r->k_back + (key - first) * size,
                         packed, dq + row * dq_row, dq_row, key > first);
                F(times)(1, tile.columns, a->size, rows, r->dlines, r->q_right, rows,
                         to_k + key * dk->row, dk->row, 1);
                F(times)(1, tile.columns, a->value_size, rows, r->lines, r->dout_right, rows,
                         to_v + key * dv->row, dv->row, 1);
                tile.bit += CDROP_TILE_KEYS;
            }
        }
}

#undef TILE_STRIDE
