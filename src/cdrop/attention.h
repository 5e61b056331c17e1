/* Attention with dropout: what one thread does. */
#ifndef CDROP_ATTENTION_H
#define CDROP_ATTENTION_H

#include "kernels.h"

/* One array of (batch, heads, rows, numbers); strides in elements, that of the numbers is 1. */
typedef struct {
    void *data;
    int64_t batch, head, row;
} cdrop_heads;

/* out = dropout(softmax(scale q k^T + bias)) v for each batch and head. Heads come in groups of
 * heads / key_heads that share k and v. */
typedef struct {
    int64_t batches, heads, key_heads, queries, keys;
    int64_t size, value_size; /* of a row of q and k, and of a row of v */
    double scale;
    int causal;             /* query i sees the keys up to i */
    const int64_t *lengths; /* how many keys each batch has, or NULL for all */
    cdrop_heads q, k, v;
    cdrop_heads bias; /* (batch, heads, queries, keys), or no data; a shared axis has stride 0 */
    /* Dropout: the element (b, h, i, j) has the index b bit_batch + h bit_head + i bit_query +
     * j bit_key of a drawn mask, from `offset` on, or of packed bits that are given. */
    int dropped; /* 0: nothing is dropped, and what follows is not looked at */
    cdrop_draw draw;
    const uint8_t *bits; /* or NULL: drawn */
    uint64_t offset;
    int64_t bit_batch, bit_head, bit_query, bit_key; /* drawn: bit_key = 1, bit_query = keys */
    double keep_scale;
} cdrop_attention;

/* The largest numbers of queries and of keys in a tile of scores. */
#define CDROP_TILE_QUERIES 48
#define CDROP_TILE_KEYS 384
#if CDROP_TILE_KEYS % CDROP_TILE_QUERIES
#error "causal attention begins with the tile of queries in which a part of the keys begins"
#endif
/* Keys that are processed before gradients of queries are added up. */
int64_t cdrop_attention_part(const cdrop_attention *a);

#define CDROP_ATTENTION(T, C, S)                                                                 \
    /* Bytes for one thread, forward or backward. `room` must be aligned to 64 bytes; a call      \
     * finds the factors in it that the latest one has packed, so that `room` must be begun first. */ \
    size_t cdrop_attention_room_##S(const cdrop_attention *a, int backward);                     \
    void cdrop_attention_begin_##S(void *room);                                                  \
    /* Rows [first, last) of out and of logsumexp__b_h_q, which may be NULL. */                  \
    void cdrop_attend_##S(const cdrop_attention *a, int64_t batch, int64_t head, int64_t first,  \
                          int64_t last, const cdrop_heads *out, T *logsumexp, void *room);       \
    /* The keys [first, last), one part, of dk and dv, for all queries of the heads that share    \
     * them; what they add to dq goes to dq, which begins at the first of these heads. */         \
    void cdrop_attend_back_##S(const cdrop_attention *a, int64_t batch, int64_t key_head,        \
                               int64_t first, int64_t last, const cdrop_heads *out,              \
                               const cdrop_heads *dout, const T *logsumexp, const cdrop_heads *dk, \
                               const cdrop_heads *dv, T *dq, int64_t dq_head,           \
                               int64_t dq_row, void *room);
CDROP_FOR_REAL_TYPES(CDROP_ATTENTION)
#undef CDROP_ATTENTION

#endif
