/* Masks from the contract, many groups at a time. Included once per instruction set.
 *
 * A. A lane is a group: a vector holds one word of the same plane of VQ_LANES groups, in the low
 *    half of each 64-bit lane, because the widening multiply reads and writes just that. The high
 *    halves hold leftovers that nothing reads. Two vectors go through the rounds side by side.
 * B. The counters of the lanes differ in their low word alone. What the other words contribute to
 *    rounds 1 to 3 are constants of a schedule, and from plane to plane the first product grows by
 *    the multiplier.
 * C. With `above` for u >= T, the planes from the lowest one that counts to the top give
 *    above = x & above where T has a one and x | above where it has a zero: an operation a word.
 * D. A threshold whose lowest one lies deeper than FIRST_PLANES leaves ties, one element in
 *    2^FIRST_PLANES. Each is settled by its next VQ_LANES planes side by side.
 *
 * Wanted from the instruction set:
 *   VQ_LANES                 64-bit lanes in a vq
 *   vq_set1(u32), vq_set64   the same number in all lanes
 *   vq_lanes(step), vq_gather(p), vq_store4(p, w), vq_any4(w)   step times the number of each lane's
 *     group; number i of p for group i; words 0 ... 3 of VQ_LANES groups, written group by group; a
 *     bit for each group with a word other than 0. They may order the lanes as suits them, but all
 *     alike.
 *   vq_add, vq_sub, vq_mul_low, vq_right(a, n), vq_xor, vq_xor3(late, a, b), vq_and, vq_or,
 *   vq_and_not(a, b) = ~a & b     (see scalar.c, which spells them out)
 */

#define CHUNK_GROUPS 32 /* below 64 */
#define CHUNK (CHUNK_GROUPS * DROPCORE_GROUP)
#define FIRST_PLANES 10 /* even */
#define FETCHING_PLANES 4 /* with fewer, prefetching costs more than it saves */

/* ---- the generator ---- */

/* What the rounds of all blocks share whose counters differ in their low word alone. roundN_cM is
 * what enters word M of the counter in round N, apart from what comes of the low word. */
typedef struct {
    dropcore_address address;
    uint32_t high; /* the second word of the counter */
    vq round1_c2, round2_c0, round2_c2, round3_c2;
    vq key0[DROPCORE_PHILOX_ROUNDS], key1[DROPCORE_PHILOX_ROUNDS]; /* of rounds 3 ... and 4 ... */
} schedule;

static inline void schedule_for(schedule *s, const dropcore_address *a, uint32_t high) {
    uint32_t key0 = a->key[0], key1 = a->key[1];
    const uint64_t step = (uint64_t)DROPCORE_PHILOX_M1 * a->step;
    const uint32_t c0 = (uint32_t)(step >> 32) ^ high ^ key0, c1 = (uint32_t)step;
    const uint64_t next = (uint64_t)DROPCORE_PHILOX_M0 * c0;
    s->address = *a;
    s->high = high;
    s->round1_c2 = vq_set1(a->domain_stream ^ key1);
    for (int round = 1; round < DROPCORE_PHILOX_ROUNDS; ++round) {
        key0 += DROPCORE_PHILOX_W0;
        key1 += DROPCORE_PHILOX_W1;
        s->key0[round] = vq_set1(key0);
        s->key1[round] = vq_set1(key1);
        if (round == 1) {
            s->round2_c0 = vq_set1(c1 ^ key0);
            s->round2_c2 = vq_set1((uint32_t)(next >> 32) ^ key1);
        }
        if (round == 2) s->round3_c2 = vq_set1((uint32_t)next ^ key1);
    }
}

/* The same where the counter's second word has changed. */
static inline void schedule_again(schedule *s, uint32_t high) {
    const dropcore_address address = s->address;
    if (high == s->high) return;
    schedule_for(s, &address, high);
}

/* Rounds 1 and 2 of a vector of blocks, from the products of their low counter words with M0. Word 3
 * is a constant then, with the key of round 3 in it already. */
static inline void philox_begin(const schedule *s, vq product, vq *w) {
    const vq p1 = vq_mul_low(vq_xor(vq_right(product, 32), s->round1_c2),
                             vq_set1(DROPCORE_PHILOX_M1));
    w[0] = vq_xor(vq_right(p1, 32), s->round2_c0);
    w[1] = p1;
    w[2] = vq_xor(product, s->round2_c2);
    w[3] = s->round3_c2;
}

static inline void philox_round(const schedule *s, int round, vq *w) {
    const vq p0 = vq_mul_low(w[0], vq_set1(DROPCORE_PHILOX_M0));
    const vq p1 = vq_mul_low(w[2], vq_set1(DROPCORE_PHILOX_M1));
    w[0] = vq_xor3(vq_right(p1, 32), w[1], s->key0[round]);
    w[2] = round == 2 ? vq_xor(vq_right(p0, 32), w[3])
                      : vq_xor3(vq_right(p0, 32), w[3], s->key1[round]);
    w[1] = p1;
    w[3] = p0;
}

/* The words of two vectors of blocks, side by side: each hides the other's latency. */
static inline void philox_pair(const schedule *s, const vq *product, vq (*w)[4]) {
    philox_begin(s, product[0], w[0]);
    philox_begin(s, product[1], w[1]);
    UNROLL
    for (int round = 2; round < DROPCORE_PHILOX_ROUNDS; ++round) {
        philox_round(s, round, w[0]);
        philox_round(s, round, w[1]);
    }
}

static inline void philox_one(const schedule *s, vq product, vq *w) {
    philox_begin(s, product, w);
    UNROLL
    for (int round = 2; round < DROPCORE_PHILOX_ROUNDS; ++round) philox_round(s, round, w);
}

/* ---- decisions ---- */

/* A threshold, and how many planes it takes: all of them, or the first ones before ties. */
typedef struct {
    schedule s;
    uint64_t threshold;
    unsigned planes;
    int has_ties;
} decider;

static inline void decider_for(decider *d, const cdrop_draw *draw, uint64_t group) {
    schedule_for(&d->s, &draw->address, (uint32_t)(group * DROPCORE_PLANES >> 32));
    d->threshold = draw->threshold;
    d->planes = cdrop_planes(draw->threshold);
    d->has_ties = d->planes > FIRST_PLANES;
    if (d->has_ties) d->planes = FIRST_PLANES;
}

/* Take plane j of T into account, counted from its lowest one. */
SPECIALISED void compare_plane(const int has_ties, int one, const vq *x, vq *above, vq *tied) {
    if (one) {
        UNROLL
        for (int q = 0; q < 4; ++q) {
            above[q] = vq_and(x[q], above[q]);
            if (has_ties) tied[q] = vq_and(x[q], tied[q]);
        }
    } else {
        UNROLL
        for (int q = 0; q < 4; ++q) {
            above[q] = vq_or(x[q], above[q]);
            if (has_ties) tied[q] = vq_and_not(x[q], tied[q]);
        }
    }
}

/* Where the groups of a chunk begin: the low counter words of their blocks. */
typedef struct {
    uint32_t low;         /* of group 0, the others follow it; */
    const uint32_t *lows; /* or of each group, with room for two vectors behind the last; or NULL */
} places;

static inline uint32_t low_of(const places *p, size_t group) {
    return p->lows ? p->lows[group] : p->low + (uint32_t)group * DROPCORE_PLANES;
}

/* M0 times the low counter words of VQ_LANES groups in that plane. */
static inline vq products(const places *p, size_t group, unsigned plane) {
    const vq block = p->lows ? vq_gather(p->lows + group)
                             : vq_add(vq_set1(low_of(p, group)), vq_lanes(DROPCORE_PLANES));
    return vq_add(vq_mul_low(block, vq_set1(DROPCORE_PHILOX_M0)),
                  vq_set64((uint64_t)DROPCORE_PHILOX_M0 * plane));
}

static inline void store_kept(const vq *above, uint8_t *kept) {
    const vq ones = vq_set64(~(uint64_t)0);
    vq below[4];
    UNROLL
    for (int q = 0; q < 4; ++q) below[q] = vq_xor(above[q], ones);
    vq_store4(kept, below);
}

/* Cache lines that are asked for with each step of the planes: memory works while Philox does. */
typedef struct {
    const char *at; /* NULL for none */
    size_t lines;
} fetching;

static inline void fetch(const fetching *f, unsigned step) {
    if (f->at)
        for (size_t line = step * f->lines; line < (step + 1) * f->lines; ++line)
            CDROP_PREFETCH(f->at + 64 * line);
}

/* Two vectors of groups: kept where u < T. */
static inline void decide_exactly(const decider *d, const places *p, size_t group, uint8_t *kept,
                                  const fetching *ahead) {
    const vq ones = vq_set64(~(uint64_t)0), m0 = vq_set1(DROPCORE_PHILOX_M0);
    const uint32_t t = (uint32_t)d->threshold >> (DROPCORE_PLANES - d->planes);
    vq w[2][4], above[2][4];
    vq product[2] = {products(p, group, d->planes - 1),
                     products(p, group + VQ_LANES, d->planes - 1)};
    UNROLL
    for (int q = 0; q < 4; ++q) above[0][q] = above[1][q] = ones;
    for (unsigned j = 0; j < d->planes; ++j) { /* from the lowest plane to the top */
        fetch(ahead, j);
        philox_pair(&d->s, product, w);
        UNROLL
        for (int v = 0; v < 2; ++v) {
            compare_plane(0, t >> j & 1, w[v], above[v], NULL);
            product[v] = vq_sub(product[v], m0);
        }
    }
    store_kept(above[0], kept);
    store_kept(above[1], kept + VQ_LANES * DROPCORE_GROUP_BYTES);
}

/* A vector of groups by its first planes, two side by side: ties where they agree with T. Which of
 * the groups have ties is returned, a bit each. */
static inline unsigned decide_first(const decider *d, const places *p, size_t group, uint8_t *kept,
                                    uint32_t *ties, const fetching *ahead) {
    const vq ones = vq_set64(~(uint64_t)0), m0 = vq_set1(DROPCORE_PHILOX_M0);
    const vq two_m0 = vq_set64(2 * (uint64_t)DROPCORE_PHILOX_M0);
    const uint32_t t = (uint32_t)d->threshold >> (DROPCORE_PLANES - FIRST_PLANES);
    vq w[2][4], above[4], tied[4], product[2];
    product[0] = products(p, group, FIRST_PLANES - 1);
    product[1] = vq_sub(product[0], m0);
    UNROLL
    for (int q = 0; q < 4; ++q) above[q] = tied[q] = ones;
    for (unsigned j = 0; j < FIRST_PLANES; j += 2) {
        fetch(ahead, j / 2);
        philox_pair(&d->s, product, w);
        UNROLL
        for (int v = 0; v < 2; ++v) {
            compare_plane(1, t >> (j + (unsigned)v) & 1, w[v], above, tied);
            product[v] = vq_sub(product[v], two_m0);
        }
    }
    store_kept(above, kept);
    vq_store4(ties, tied);
    return vq_any4(tied);
}

/* Decide an element that its first planes leave tied by its next VQ_LANES planes side by side, which
 * nearly always are enough. */
static inline int settle_tie(const decider *d, uint32_t low, unsigned e) {
    uint32_t rest = (uint32_t)d->threshold << FIRST_PLANES, plane = FIRST_PLANES, u, t;
    do { /* behind plane 31 T is zero, so that what is drawn there changes nothing */
        const vq block = vq_add(vq_set1(low + plane), vq_lanes(1));
        ALIGNED uint32_t planes[VQ_LANES][4];
        vq w[4];
        philox_one(&d->s, vq_mul_low(block, vq_set1(DROPCORE_PHILOX_M0)), w);
        vq_store4(planes, w);
        u = 0;
        for (int l = 0; l < VQ_LANES; ++l)
            u = u << 1 | (planes[l][e / 32] >> (e % 32) & 1);
        t = rest >> (32 - VQ_LANES);
        rest <<= VQ_LANES;
        plane += VQ_LANES;
    } while (u == t && rest);
    return u < t;
}

/* The tied elements of a group: rarely more than one. No branch asks in which half, as half of the
 * time it would be mispredicted. */
static inline void settle_group(const decider *d, uint32_t low, const uint32_t *ties,
                                uint8_t *bits) {
    uint64_t half[2] = {ties[0] | (uint64_t)ties[1] << 32, ties[2] | (uint64_t)ties[3] << 32};
    do {
        const unsigned upper = half[0] == 0, e = 64 * upper + cdrop_lowest_bit(half[upper]);
        half[upper] &= half[upper] - 1;
        bits[e / 8] |= (uint8_t)(settle_tie(d, low, e) << (e % 8));
    } while (half[0] | half[1]);
}

/* The words that vq_store4 wrote as bytes of the packed mask. */
static inline void words_to_bytes(uint8_t *bits, size_t bytes) {
#if CDROP_BIG_ENDIAN
    for (size_t at = 0; at < bytes; at += 4) {
        uint32_t w;
        memcpy(&w, bits + at, 4);
        for (int b = 0; b < 4; ++b) bits[at + b] = (uint8_t)(w >> (8 * b));
    }
#else
    (void)bits, (void)bytes;
#endif
}

/* At most CHUNK_GROUPS groups that share a schedule. */
SPECIALISED void decide_chunk(const decider *d, const int has_ties, const uint32_t *lows,
                              uint32_t low, size_t n_groups, uint8_t *bits, const char *ahead,
                              size_t bytes) {
    enum { AT_ONCE = 2 * VQ_LANES };
    ALIGNED uint32_t ties[(CHUNK_GROUPS + AT_ONCE) * 4];
    uint64_t tied = 0; /* a bit for each group of the chunk */
    const size_t at_once = has_ties ? VQ_LANES : AT_ONCE;
    const size_t steps = has_ties ? FIRST_PLANES / 2 : d->planes;
    const places at = {low, lows};
    fetching fetched = {ahead, at_once * bytes / 64 / steps + 1};
    for (size_t g = 0; g < n_groups; g += at_once) {
        const size_t now = n_groups - g < at_once ? n_groups - g : at_once;
        ALIGNED uint8_t room[AT_ONCE * DROPCORE_GROUP_BYTES];
        uint8_t *to = bits + g * DROPCORE_GROUP_BYTES;
        if (now < at_once) to = room;
        if (has_ties)
            tied |= (uint64_t)decide_first(d, &at, g, to, ties + g * 4, &fetched) << g;
        else
            decide_exactly(d, &at, g, to, &fetched);
        if (ahead) fetched.at += at_once * bytes;
        if (now < at_once) memcpy(bits + g * DROPCORE_GROUP_BYTES, room, now * DROPCORE_GROUP_BYTES);
    }
    words_to_bytes(bits, n_groups * DROPCORE_GROUP_BYTES);
    tied &= ((uint64_t)1 << n_groups) - 1; /* not those behind the last group */
    for (; tied; tied &= tied - 1) {
        const unsigned g = cdrop_lowest_bit(tied);
        settle_group(d, low_of(&at, g), ties + g * 4, bits + g * DROPCORE_GROUP_BYTES);
    }
}

/* bits of the groups [group, group + n_groups). `ahead`, if it is not NULL, is where they will be
 * applied to that many bytes each. It is fetched only where there are planes enough to hide that. */
static inline void decide_groups(decider *d, uint64_t group, size_t n_groups, uint8_t *bits,
                                 const char *ahead, size_t bytes) {
    if (d->planes < FETCHING_PLANES) ahead = NULL;
    if (d->planes == 0) {
        memset(bits, d->threshold ? 0xFF : 0, n_groups * DROPCORE_GROUP_BYTES);
        return;
    }
    while (n_groups) {
        const uint64_t block = group * DROPCORE_PLANES;
        const uint32_t low = (uint32_t)block, high = (uint32_t)(block >> 32);
        /* Groups until the low word of the counter begins again. */
        const uint64_t same = (((uint64_t)1 << 32) - low) / DROPCORE_PLANES;
        size_t now = n_groups < CHUNK_GROUPS ? n_groups : CHUNK_GROUPS;
        if (now > same) now = (size_t)same;
        schedule_again(&d->s, high);
        if (d->has_ties)
            decide_chunk(d, 1, NULL, low, now, bits, ahead, bytes);
        else
            decide_chunk(d, 0, NULL, low, now, bits, ahead, bytes);
        group += now;
        bits += now * DROPCORE_GROUP_BYTES;
        n_groups -= now;
        if (ahead) ahead += now * bytes;
    }
}

static void decide(const cdrop_draw *draw, uint64_t group, size_t n_groups, uint8_t *bits) {
    decider d;
    decider_for(&d, draw, group);
    decide_groups(&d, group, n_groups, bits, NULL, 0);
}

static void decide_some(const cdrop_draw *draw, const uint64_t *groups, size_t n_groups,
                        uint8_t *bits) {
    uint32_t lows[CHUNK_GROUPS + 2 * VQ_LANES] = {0};
    decider d;
    decider_for(&d, draw, n_groups ? groups[0] : 0);
    if (d.planes == 0) {
        memset(bits, d.threshold ? 0xFF : 0, n_groups * DROPCORE_GROUP_BYTES);
        return;
    }
    while (n_groups) {
        const uint32_t high = (uint32_t)(groups[0] * DROPCORE_PLANES >> 32);
        size_t now = 0;
        while (now < n_groups && now < CHUNK_GROUPS &&
               (uint32_t)(groups[now] * DROPCORE_PLANES >> 32) == high) {
            lows[now] = (uint32_t)(groups[now] * DROPCORE_PLANES);
            ++now;
        }
        schedule_again(&d.s, high);
        if (d.has_ties)
            decide_chunk(&d, 1, lows, 0, now, bits, NULL, 0);
        else
            decide_chunk(&d, 0, lows, 0, now, bits, NULL, 0);
        groups += now;
        bits += now * DROPCORE_GROUP_BYTES;
        n_groups -= now;
    }
}

/* ---- words, uniforms, a threshold for each element ---- */

#define BLOCKS (2 * VQ_LANES) /* at a time */

/* The words of the BLOCKS blocks from the one with that low word on, which all have the high word of
 * the schedule. */
static inline void draw_blocks(const schedule *s, uint32_t low, uint32_t *out) {
    const vq m0 = vq_set1(DROPCORE_PHILOX_M0), lanes = vq_lanes(1);
    const vq product[2] = {vq_mul_low(vq_add(vq_set1(low), lanes), m0),
                           vq_mul_low(vq_add(vq_set1(low + VQ_LANES), lanes), m0)};
    vq w[2][4];
    philox_pair(s, product, w);
    vq_store4(out, w[0]);
    vq_store4(out + 4 * VQ_LANES, w[1]);
}

static void words(const dropcore_address *address, uint64_t block, size_t n_blocks, uint32_t *out) {
    schedule s;
    schedule_for(&s, address, (uint32_t)(block >> 32));
    while (n_blocks) {
        const uint64_t same = ((uint64_t)1 << 32) - (uint32_t)block;
        size_t now = n_blocks < BLOCKS ? n_blocks : BLOCKS;
        uint32_t room[4 * BLOCKS];
        if (now > same) now = (size_t)same;
        schedule_again(&s, (uint32_t)(block >> 32));
        if (now == BLOCKS) {
            draw_blocks(&s, (uint32_t)block, out);
        } else {
            draw_blocks(&s, (uint32_t)block, room);
            memcpy(out, room, now * 4 * sizeof *room);
        }
        out += 4 * now;
        block += now;
        n_blocks -= now;
    }
}

/* Groups whose bits are transposed together: 32 rows of a word for each quarter of each group, so long
 * that a compiler's vectors run along them. */
#define ROW (4 * CDROP_EACH_GROUPS)

SPECIALISED void swap_bits(uint32_t *rows, const int far, const uint32_t mask) {
    for (int first = 0; first < 32; first += 2 * far) {
        uint32_t *low = rows + ROW * first, *high = low + ROW * far;
        INDEPENDENT
        for (int i = 0; i < ROW * far; ++i) {
            const uint32_t moved = (low[i] >> far ^ high[i]) & mask;
            high[i] ^= moved;
            low[i] ^= moved << far;
        }
    }
}

/* Bit e of row k and bit k of row e change places, in each column. */
static inline void transpose_bits(uint32_t *rows) {
    swap_bits(rows, 16, 0x0000FFFFu);
    swap_bits(rows, 8, 0x00FF00FFu);
    swap_bits(rows, 4, 0x0F0F0F0Fu);
    swap_bits(rows, 2, 0x33333333u);
    swap_bits(rows, 1, 0x55555555u);
}

static void uniform(const dropcore_address *address, uint64_t group, size_t n_groups, uint32_t *u) {
    ALIGNED uint32_t drawn[4 * BLOCKS], rows[32 * ROW] = {0};
    schedule s;
    schedule_for(&s, address, (uint32_t)(group * DROPCORE_PLANES >> 32));
    while (n_groups) {
        const size_t now = n_groups < CDROP_EACH_GROUPS ? n_groups : CDROP_EACH_GROUPS;
        for (size_t g = 0; g < now; ++g) {
            const uint64_t block = (group + g) * DROPCORE_PLANES;
            schedule_again(&s, (uint32_t)(block >> 32));
            for (unsigned first = 0; first < DROPCORE_PLANES; first += BLOCKS) {
                draw_blocks(&s, (uint32_t)block + first, drawn);
                for (unsigned j = 0; j < BLOCKS; ++j) /* plane 0 is the highest bit */
                    memcpy(rows + ROW * (31 - first - j) + 4 * g, drawn + 4 * j, 16);
            }
        }
        transpose_bits(rows);
        for (size_t e = 0; e < now * DROPCORE_GROUP; ++e) u[e] = rows[CDROP_EACH_PLACE(e)];
        u += now * DROPCORE_GROUP;
        group += now;
        n_groups -= now;
    }
}

/* The thresholds are turned into their planes, and planes of a group are drawn some at a time while
 * an element is tied. */
static void decide_each(const dropcore_address *address, uint64_t group, size_t n_groups,
                        uint32_t *thresholds, uint8_t *bits) {
    ALIGNED uint32_t drawn[4 * BLOCKS];
    schedule s;
    schedule_for(&s, address, (uint32_t)(group * DROPCORE_PLANES >> 32));
    transpose_bits(thresholds);
    for (size_t g = 0; g < n_groups; ++g, bits += DROPCORE_GROUP_BYTES) {
        const uint64_t block = (group + g) * DROPCORE_PLANES;
        uint32_t kept[4] = {0}, tied[4], any = ~0u;
        memset(tied, 0xFF, sizeof tied);
        schedule_again(&s, (uint32_t)(block >> 32));
        for (unsigned first = 0; first < DROPCORE_PLANES && any; first += BLOCKS) {
            draw_blocks(&s, (uint32_t)block + first, drawn);
            for (unsigned j = 0; j < BLOCKS; ++j) {
                const uint32_t *t = thresholds + ROW * (31 - first - j) + 4 * g;
                for (unsigned q = 0; q < 4; ++q) {
                    const uint32_t x = drawn[4 * j + q];
                    kept[q] |= tied[q] & t[q] & ~x;
                    tied[q] &= ~(x ^ t[q]);
                }
            }
            any = tied[0] | tied[1] | tied[2] | tied[3];
        }
        memcpy(bits, kept, sizeof kept);
        words_to_bytes(bits, sizeof kept);
    }
}

#undef ROW
#undef BLOCKS
