#include "attention.h"

#include <math.h>
#include <string.h>

#include "runtime.h"
#include "serial.h"

/* A. A tile holds the scores of some queries with some keys; nothing is stored of size queries x
 *    keys. Forward, a tile is multiplied with v right after its softmax. Backward, it is computed
 *    again from q, k and the sums of the softmax, and its mask is drawn again.
 * B. All factors are packed for the register tile of the products. k and v are packed once for all
 *    queries of a head; a thread keeps them until it comes to other heads.
 * C. Where tiles begin depends on the number of queries and keys alone. Each number of out is summed
 *    in order of the keys, each of dk and dv in order of the queries: the same bits for any number
 *    of threads and any batch.
 * D. Keys that no query of a tile may see are left out, and tiles of them are not computed. */

#define LOG2_E 1.4426950408889634074
#define LOG_2 0.69314718055994530942

static int64_t rounded_up(int64_t n, int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Keys that the queries before `last` of a batch see. */
static int64_t keys_seen(const cdrop_attention *a, int64_t batch, int64_t last) {
    const int64_t live = a->lengths ? a->lengths[batch] : a->keys;
    return a->causal ? smaller(live, last) : live;
}

/* At most eight parts, and none of less than some tiles. */
int64_t cdrop_attention_part(const cdrop_attention *a) {
    const int64_t eighth = rounded_up((a->keys + 7) / 8, CDROP_TILE_KEYS);
    return eighth > 2 * CDROP_TILE_KEYS ? eighth : 2 * CDROP_TILE_KEYS;
}

/* ---- the mask of some rows ---- */

#define BITS_BEHIND 16 /* bytes that may be read behind the last bit */

static size_t bytes_of_bits(const cdrop_attention *a) {
    if (!a->dropped) return 0;
    return (size_t)(CDROP_TILE_QUERIES * rounded_up(a->keys, CDROP_TILE_STEP) / 8 +
                    3 * DROPCORE_GROUP_BYTES + BITS_BEHIND);
}

/* Groups of a list, drawn, to their places in bits that begin with group `origin`. */
static void put_groups(const cdrop_attention *a, const uint64_t *groups, size_t count,
                         uint64_t origin, uint8_t *drawn, uint8_t *bits) {
    cdrop_active->decide_some(&a->draw, groups, count, drawn);
    for (size_t i = 0; i < count; ++i)
        memcpy(bits + (groups[i] - origin) * DROPCORE_GROUP_BYTES, drawn + i * DROPCORE_GROUP_BYTES,
               DROPCORE_GROUP_BYTES);
}

/* Groups that are drawn and then put where they belong. */
#define SOME_GROUPS 64

/* The groups with the elements [start, start + n), beginning at `bits`, of each row; an element
 * before the diagonal of a causal row is not needed, and neither are its groups. */
static void draw_rows(const cdrop_attention *a, uint64_t start, int64_t rows, int64_t n,
                      int64_t first_live, uint8_t *bits) {
    const uint64_t origin = start / DROPCORE_GROUP;
    uint64_t groups[SOME_GROUPS], next = origin;
    uint8_t drawn[SOME_GROUPS * DROPCORE_GROUP_BYTES];
    size_t count = 0;
    for (int64_t i = 0; i < rows; ++i, start += (uint64_t)a->bit_query) {
        const int64_t live = a->causal ? smaller(n, first_live + i) : n;
        if (live <= 0) continue;
        const uint64_t end = (start + (uint64_t)live - 1) / DROPCORE_GROUP;
        if (next < start / DROPCORE_GROUP) next = start / DROPCORE_GROUP;
        for (; next <= end; ++next) {
            if (count == SOME_GROUPS) {
                put_groups(a, groups, count, origin, drawn, bits);
                count = 0;
            }
            groups[count++] = next;
        }
    }
    if (count) put_groups(a, groups, count, origin, drawn, bits);
}

/* The mask of the queries [row, row + rows) with the keys [first, last), whose bits are in `room`;
 * tile->bit is that of the first of them. */
static void bits_of_rows(const cdrop_attention *a, int64_t batch, int64_t head, int64_t row,
                         int64_t rows, int64_t first, int64_t last, uint8_t *room,
                         cdrop_tile *tile) {
    const int64_t keys = last - first;
    const uint64_t index = a->offset + (uint64_t)(batch * a->bit_batch + head * a->bit_head +
                                                  row * a->bit_query + first * a->bit_key);
    tile->bits = a->dropped ? room : NULL;
    tile->bit = 0;
    if (!a->dropped || keys == 0) return;
    if (!a->bits) {
        tile->bit = index % DROPCORE_GROUP;
        tile->bit_stride = a->bit_query;
        if (keys == a->keys && !a->causal) { /* one row after the other */
            const uint64_t end = tile->bit + (uint64_t)(rows * keys);
            cdrop_active->decide(&a->draw, index / DROPCORE_GROUP,
                                 (size_t)((end + DROPCORE_GROUP - 1) / DROPCORE_GROUP), room);
        } else {
            draw_rows(a, index, rows, keys, row + 1 - first, room);
        }
        return;
    }
    tile->bit_stride = rounded_up(keys, CDROP_TILE_STEP);
    for (int64_t i = 0; i < rows; ++i, room += tile->bit_stride / 8) {
        const uint64_t bit = index + (uint64_t)(i * a->bit_query);
        if (a->bit_key)
            cdrop_move_bits(a->bits, bit, (size_t)keys, room);
        else
            memset(room, cdrop_bit(a->bits, bit) ? 0xFF : 0, (size_t)tile->bit_stride / 8);
    }
}

/* ---- both dtypes ---- */

#define CONCAT_(a, b) a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define F(name) CONCAT(name, S)
#define KERNEL(name) cdrop_active->F(name)

#define S f32
#define T float
#include "generic/attend.inc.h"
#undef S
#undef T

#define S f64
#define T double
#include "generic/attend.inc.h"
