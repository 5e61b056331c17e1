/* What attention does between its products: softmax and dropout of scores, forward and backward.
 *
 * A. The scores of some rows lie one after another, each with all its keys. Row r is query
 *    r % queries of head r / queries, and head h is head h % heads of batch h / heads; `first` is
 *    the number of the first row here. What is kept for each row is addressed by this number.
 * B. A row's maximum and sum are one pass; weights are another, in which neighbouring lanes have
 *    neighbouring keys. Backward, the sum of the softmax is known.
 * C. The mask is drawn in registers: a lane decides one group of 128 keys of a row, a warp as many
 *    groups as it has lanes. Groups without a key that the row sees are not drawn.
 * D. Dropout selects weights after they were summed: the softmax is that of all keys. */

#define SCORES_ARGUMENTS                                                                         \
    i64 first, i64 rows, i64 heads, i64 queries, i64 keys, const i64 *lengths, int causal,       \
        REAL scale, const STORED *bias, i64 bias_batch, i64 bias_head, i64 bias_query
#define SCORES_OF                                                                                \
    {first, rows, heads, queries, keys, lengths, causal, scale, bias, bias_batch, bias_head,     \
     bias_query}
#define WEIGHTS_ARGUMENTS                                                                        \
    int decisions, REAL keep_scale, const u8 *bits, DRAW_ARGUMENTS, i64 bit_batch, i64 bit_head, \
        i64 bit_query, i64 bit_key, i64 groups
#define WEIGHTS_OF                                                                               \
    {decisions, keep_scale, bits, DRAW_OF, offset, bit_batch, bit_head, bit_query, bit_key, groups}

struct scores {
    i64 first, rows, heads, queries, keys;
    const i64 *lengths; /* the keys of each batch; NULL: all of them */
    int causal;         /* query i sees the keys up to i */
    REAL scale;
    const STORED *bias; /* or NULL; a shared axis has stride 0 */
    i64 bias_batch, bias_head, bias_query;
};

/* Which weights are kept. Element (batch, head, query, key) has the index offset + batch bit_batch +
 * head bit_head + query bit_query + key bit_key. If the mask is drawn, bit_key is 1. */
struct dropped {
    int decisions;
    REAL scale;
    const u8 *bits;
    draw d;
    u64 offset;
    i64 bit_batch, bit_head, bit_query, bit_key;
    i64 groups; /* of 128 keys that a row is cut into, at most */
};

struct place {
    i64 batch, head, query;
};

INLINE place place_of(const scores &s, i64 row) {
    place p;
    i64 rest = s.first + row;
    p.query = split(rest, s.queries);
    p.head = split(rest, s.heads);
    p.batch = rest;
    return p;
}

/* How many keys the row sees; a length that is none of [0, keys] is not believed. */
INLINE i64 live_of(const scores &s, const place &p) {
    i64 live = s.lengths ? s.lengths[p.batch] : s.keys;
    if (s.causal && live > p.query + 1) live = p.query + 1;
    return live < 0 ? 0 : live < s.keys ? live : s.keys;
}

INLINE const STORED *bias_of(const scores &s, const place &p) {
    return s.bias ? s.bias + (p.batch * s.bias_batch + p.head * s.bias_head +
                              p.query * s.bias_query)
                  : (const STORED *)0;
}

INLINE REAL score_of(const scores &s, REAL product, const STORED *bias, i64 key) {
    const REAL score = product * s.scale;
    return bias ? score + bias[key] : score;
}

/* The largest of no scores. */
INLINE REAL lowest() {
    return -__uint_as_float(0x7F800000u);
}

/* What is taken off the scores: nothing where all are hidden. */
INLINE REAL base_of(REAL top) {
    return top == lowest() ? (REAL)0 : top;
}

/* base and factor, such that a weight is exp(score - base) factor, and log sum exp of the scores. */
KERNEL attention_sums(SCORES_ARGUMENTS, const STORED *x, int width, STORED *base, STORED *factor,
                      STORED *logsumexp) {
    __shared__ REAL scratch[WARP];
    const scores s = SCORES_OF;
    const group g = group_of(width);
    for (i64 row = g.first; row < rows; row += g.stride) {
        const place p = place_of(s, row);
        const i64 live = live_of(s, p);
        const STORED *from = x + row * keys, *own = bias_of(s, p);
        REAL top = lowest(), sum = (REAL)0;
        for (i64 j = g.thread; j < live; j += g.size)
            top = larger_of()(top, score_of(s, from[j], own, j));
        top = joined(g, top, scratch, larger_of());
        const REAL low = base_of(top);
        for (i64 j = g.thread; j < live; j += g.size)
            sum += exp_of(score_of(s, from[j], own, j) - low);
        sum = joined(g, sum, scratch, sum_of());
        if (g.thread) continue;
        base[first + row] = low;
        factor[first + row] = sum == (REAL)0 ? (REAL)0 : (REAL)1 / sum;
        if (logsumexp) logsumexp[first + row] = (REAL)((double)top + log((double)sum));
    }
}

/* The sums of the rows of y * dy. */
KERNEL attention_means(i64 rows, i64 n, const STORED *y, const STORED *dy, int width,
                       STORED *mean) {
    __shared__ double scratch[WARP];
    const group g = group_of(width);
    for (i64 row = g.first; row < rows; row += g.stride) {
        double sum = 0;
        for (i64 j = row * n + g.thread; j < (row + 1) * n; j += g.size)
            sum += (double)y[j] * (double)dy[j];
        sum = joined(g, sum, scratch, sum_of());
        if (g.thread == 0) mean[row] = (STORED)sum;
    }
}

/* The index of the decision on a row's first key. */
INLINE u64 index_of(const dropped &m, const place &p) {
    return m.offset + (u64)(p.batch * m.bit_batch + p.head * m.bit_head + p.query * m.bit_query);
}

/* The decisions of a group; it begins in front of the row's first key unless that begins a group. */
INLINE dropcore_block decided(const scores &s, const dropped &m, i64 row, i64 group) {
    const place p = place_of(s, row);
    const u64 index = index_of(m, p);
    const i64 start = group * DROPCORE_GROUP - (i64)(index % DROPCORE_GROUP);
    if (start >= live_of(s, p)) return {{0, 0, 0, 0}};
    return dropcore_decide(&m.d.address, m.d.threshold, index / DROPCORE_GROUP + (u64)group);
}

/* Calls what(element of x, number of the row, seen, score, kept) for every key of every row. */
template <typename What>
INLINE void each_weight(const scores &s, const dropped &m, const STORED *x, const What &what) {
    const bool drawn = m.decisions == DECISIONS_DRAWN, given = m.decisions == DECISIONS_GIVEN;
    const i64 pieces = s.rows * m.groups;
    const int lane = threadIdx.x % WARP, at_once = groups_at_once(pieces);
    for (i64 begin = FIRST / WARP * at_once; begin < pieces; begin += STRIDE / WARP * at_once) {
        dropcore_block kept = {{0, 0, 0, 0}};
        if (drawn && lane < at_once && begin + lane < pieces) {
            i64 row = begin + lane;
            const i64 group = split(row, m.groups);
            kept = decided(s, m, row, group);
        }
        for (int k = 0; k < at_once && begin + k < pieces; ++k) {
            i64 row = begin + k;
            const i64 group = split(row, m.groups);
            const place p = place_of(s, row);
            const i64 live = live_of(s, p);
            const STORED *bias = bias_of(s, p);
            const u64 index = index_of(m, p);
            i64 key = group * DROPCORE_GROUP + lane - (drawn ? (i64)(index % DROPCORE_GROUP) : 0);
#pragma unroll
            for (int q = 0; q < DROPCORE_GROUP / WARP; ++q, key += WARP) {
                const u32 word = drawn ? __shfl_sync(WHOLE_WARP, kept.word[q], k) : WHOLE_WARP;
                if (key < 0 || key >= s.keys) continue;
                const bool seen = key < live;
                const i64 at = row * s.keys + key;
                const REAL score = seen ? score_of(s, x[at], bias, key) : (REAL)0;
                const u32 bit = given ? bit_at(m.bits, (i64)index + key * m.bit_key)
                                      : word >> lane & 1u;
                what(at, s.first + row, seen, score, bit);
            }
        }
    }
}

/* x becomes the weights after dropout. */
KERNEL attention_weights(SCORES_ARGUMENTS, WEIGHTS_ARGUMENTS, STORED *x, const STORED *base,
                         const STORED *factor) {
    const scores s = SCORES_OF;
    const dropped m = WEIGHTS_OF;
    each_weight(s, m, x, [&](i64 at, i64 row, bool seen, REAL score, u32 bit) {
        x[at] = seen && bit ? exp_of(score - base[row]) * factor[row] * m.scale : (REAL)0;
    });
}

/* x becomes the weights after dropout, and dx, their gradient, that of the products of q and k: with
 * p = exp(score - logsumexp), dx = scale p ((bit ? dx m.scale : 0) - mean). No weight is above 1,
 * also where scores are so large that their rounding is. */
KERNEL attention_weights_back(SCORES_ARGUMENTS, WEIGHTS_ARGUMENTS, STORED *x, STORED *dx,
                              const STORED *logsumexp, const STORED *mean) {
    const scores s = SCORES_OF;
    const dropped m = WEIGHTS_OF;
    each_weight(s, m, x, [&](i64 at, i64 row, bool seen, REAL score, u32 bit) {
        const REAL level = score - base_of(logsumexp[row]);
        const REAL p = seen ? exp_of(level > (REAL)0 ? (REAL)0 : level) : (REAL)0;
        const REAL back = bit ? dx[at] * m.scale : (REAL)0;
        x[at] = bit ? p * m.scale : (REAL)0;
        dx[at] = seen ? s.scale * (p * (back - mean[row])) : (REAL)0;
    });
}
