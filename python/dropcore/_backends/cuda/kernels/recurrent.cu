/* One step of a recurrent layer for the whole batch, forward and backward. A thread computes a unit
 * of a sequence. cuBLAS multiplies the state by the weights between two steps: the result is in
 * `product`, and its left factor, the state with its mask applied, in `factor`.
 *
 * The formulas, and what is saved for the backward pass, are those of the C core's
 * recurrent.inc.h. */

/* The whole sequence: (batch, steps, gates, units), with the gates of a step in order. */
#define RUN_ARGUMENTS                                                                             \
    int kind, i64 batch, i64 steps, i64 units, i64 gates, const i64 *lengths,                      \
        const u8 *state_bits, REAL state_scale, const u8 *zone_h, REAL share_h,                    \
        const u8 *zone_c, REAL share_c
#define RUN_OF                                                                                    \
    {kind, batch, steps, units, gates, lengths, {state_bits, state_scale},                         \
     {zone_h, share_h}, {zone_c, share_c}}

/* Bits, or one number for all elements if bits is NULL. */
struct bits_or_number {
    const u8 *bits;
    REAL number;
};

struct run {
    int kind;
    i64 batch, steps, units, gates;
    const i64 *lengths;          /* NULL: all steps are valid */
    bits_or_number state;        /* the mask of h where the product reads it, and its scale */
    bits_or_number zone_h, zone_c; /* zoneout: a bit selects the new value; else its share */
};

/* The position of a thread's unit at step t: unit u of sequence b. */
struct place {
    i64 b, u, in_steps, in_gates;
};

INLINE place place_of(const run &r, i64 i, i64 t) {
    place p;
    p.b = i;
    p.u = split(p.b, r.units);
    const i64 step = p.b * r.steps + t;
    p.in_steps = step * r.units + p.u;
    p.in_gates = step * r.gates * r.units + p.u;
    return p;
}

INLINE bool is_valid(const run &r, i64 b, i64 t) {
    return !r.lengths || t < r.lengths[b];
}

/* h as the product reads it; also the backward pass of its gradient. */
INLINE REAL masked(const run &r, i64 i, REAL h) {
    if (!r.state.bits) return h;
    return bit_at(r.state.bits, i) ? h * r.state.number : (REAL)0;
}

/* Zoneout, and its gradient in two parts. */
INLINE REAL mixed(const bits_or_number &zone, i64 at, REAL fresh, REAL old) {
    if (zone.bits) return bit_at(zone.bits, at) ? fresh : old;
    return zone.number == (REAL)1 ? fresh : fresh * zone.number + old * ((REAL)1 - zone.number);
}

INLINE void parted(const bits_or_number &zone, i64 at, REAL d, REAL &fresh, REAL &old) {
    if (zone.bits) {
        const u32 kept = bit_at(zone.bits, at);
        fresh = kept ? d : (REAL)0;
        old = kept ? (REAL)0 : d;
    } else {
        fresh = d * zone.number;
        old = zone.number == (REAL)1 ? (REAL)0 : d * ((REAL)1 - zone.number);
    }
}

/* h and c: in, the state before step t; out, the state after it. factor may be h. */
KERNEL step_forward(RUN_ARGUMENTS, i64 t, const REAL *product, REAL *given, REAL *extra,
                    REAL *entering, REAL *kept, const REAL *bias, REAL *h, REAL *c, REAL *factor,
                    REAL *y) {
    const run r = RUN_OF;
    const i64 n = units;
    for (i64 i = FIRST; i < batch * n; i += STRIDE) {
        const place p = place_of(r, i, t);
        const bool valid = is_valid(r, p.b, t);
        entering[p.in_steps] = valid ? factor[i] : (REAL)0;
        if (kept && kept != entering)
            kept[p.in_steps] = !valid ? (REAL)0 : kind == CELL_LSTM ? c[i] : h[i];
        if (!valid) {
            if (y) y[p.in_steps] = (REAL)0;
            continue;
        }
        const REAL *q = product + p.b * gates * n + p.u;
        REAL *g = given + p.in_gates;
        const REAL before = h[i];
        REAL fresh;
        if (kind == CELL_LSTM) {
            const REAL input = sigmoid_of(g[0] + q[0]), forget = sigmoid_of(g[n] + q[n]);
            const REAL update = tanh_of(g[2 * n] + q[2 * n]);
            const REAL output = sigmoid_of(g[3 * n] + q[3 * n]);
            const REAL cell = forget * c[i] + input * update, squashed = tanh_of(cell);
            g[0] = input;
            g[n] = forget;
            g[2 * n] = update;
            g[3 * n] = output;
            extra[p.in_steps] = squashed;
            c[i] = mixed(r.zone_c, p.in_steps, cell, c[i]);
            fresh = output * squashed;
        } else if (kind == CELL_GRU) {
            const REAL update = sigmoid_of(g[0] + q[0]), reset = sigmoid_of(g[n] + q[n]);
            const REAL inner = q[2 * n] + bias[p.u];
            const REAL candidate = tanh_of(g[2 * n] + reset * inner);
            g[0] = update;
            g[n] = reset;
            g[2 * n] = candidate;
            extra[p.in_steps] = inner;
            fresh = ((REAL)1 - update) * candidate + update * before;
        } else {
            const REAL a = g[0] + q[0];
            fresh = kind == CELL_RELU ? (a <= 0 ? (REAL)0 : a) : tanh_of(a); /* a NaN stays */
            g[0] = fresh;
        }
        const REAL after = mixed(r.zone_h, p.in_steps, fresh, before);
        h[i] = after;
        if (factor != h) factor[i] = masked(r, i, after);
        if (y) y[p.in_steps] = after;
    }
}

/* dh and dc: in, the gradients of the state after step t, without the contribution of the product of
 * the following step (NULL: there is none); out, those of the state before it, without that of the
 * product of step t, whose left factor is written to `factor`. dgates and dback: the gradients of the
 * products of the inputs and of the state. After the end of a sequence all of them are zero. */
KERNEL step_backward(RUN_ARGUMENTS, i64 t, const REAL *product, const REAL *given, const REAL *extra,
                 const REAL *kept, const REAL *dy, REAL *dh, REAL *dc, REAL *dgates, REAL *dback,
                 REAL *factor) {
    const run r = RUN_OF;
    const i64 n = units;
    const REAL one = (REAL)1;
    for (i64 i = FIRST; i < batch * n; i += STRIDE) {
        const place p = place_of(r, i, t);
        REAL d = dh[i], fresh, old;
        if (product) d = d + masked(r, i, product[i]);
        REAL *dg = dgates + p.in_gates, *db = dback + p.in_gates;
        REAL *f = factor + p.b * gates * n + p.u;
        if (!is_valid(r, p.b, t)) {
            dh[i] = d;
            for (i64 gate = 0; gate < gates; ++gate)
                dg[gate * n] = db[gate * n] = f[gate * n] = (REAL)0;
            continue;
        }
        if (dy) d = d + dy[p.in_steps];
        parted(r.zone_h, p.in_steps, d, fresh, old);
        const REAL *g = given + p.in_gates;
        if (kind == CELL_LSTM) {
            const REAL input = g[0], forget = g[n], update = g[2 * n], output = g[3 * n];
            const REAL squashed = extra[p.in_steps], before = kept[p.in_steps];
            const REAL through = fresh * output;
            REAL cell, cell_old;
            parted(r.zone_c, p.in_steps, dc[i], cell, cell_old);
            cell = cell + (through - through * squashed * squashed);
            f[0] = dg[0] = cell * update * input * (one - input);
            f[n] = dg[n] = cell * before * forget * (one - forget);
            f[2 * n] = dg[2 * n] = cell * input * (one - update * update);
            f[3 * n] = dg[3 * n] = fresh * squashed * output * (one - output);
            dc[i] = cell_old + cell * forget;
        } else if (kind == CELL_GRU) {
            const REAL update = g[0], reset = g[n], candidate = g[2 * n];
            const REAL da = fresh * (one - update) * (one - candidate * candidate);
            const REAL dreset = da * extra[p.in_steps] * reset * (one - reset);
            f[0] = db[0] = dg[0] =
                fresh * (kept[p.in_steps] - candidate) * update * (one - update);
            f[n] = db[n] = dg[n] = dreset;
            dg[2 * n] = da;
            f[2 * n] = db[2 * n] = da * reset;
            old = old + fresh * update;
        } else {
            const REAL y = g[0];
            f[0] = dg[0] = kind == CELL_RELU ? (y > 0 ? fresh : (REAL)0) : fresh * (one - y * y);
        }
        dh[i] = old;
    }
}

/* The gradient of the first state: adds the product of the first step. */
KERNEL finish_backward(RUN_ARGUMENTS, const REAL *product, REAL *dh) {
    const run r = RUN_OF;
    for (i64 i = FIRST; i < batch * units; i += STRIDE) dh[i] = dh[i] + masked(r, i, product[i]);
}
