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

/* The mask of the queries [first, last) with the first `keys` keys, in `room`. */
static void bits_of_rows(const cdrop_attention *a, int64_t batch, int64_t head, int64_t first,
                         int64_t last, int64_t keys, uint8_t *room, cdrop_tile *tile) {
    const uint64_t index = a->offset + (uint64_t)(batch * a->bit_batch + head * a->bit_head +
                                                  first * a->bit_query);
    tile->bits = a->dropped ? room : NULL;
    tile->bit = 0;
    if (!a->dropped || keys == 0) return;
    if (!a->bits) {
        const uint64_t end = index + (uint64_t)((last - 1 - first) * a->bit_query + keys);
        const uint64_t group = index / DROPCORE_GROUP;
        tile->bit = index % DROPCORE_GROUP;
        tile->bit_stride = a->bit_query;
        cdrop_active->decide(&a->draw, group,
                             (size_t)((end + DROPCORE_GROUP - 1) / DROPCORE_GROUP - group), room);
        return;
    }
    tile->bit_stride = rounded_up(keys, CDROP_TILE_STEP);
    for (int64_t i = 0; i < last - first; ++i, room += tile->bit_stride / 8) {
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
