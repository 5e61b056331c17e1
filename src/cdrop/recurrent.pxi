# Recurrent layers: the recurrence of a whole batch of sequences in one parallel region.
#
# The product of the inputs is made before, for all steps at once. What is left, step after step, is
# the product of the state with the recurrent weights, and the cell. A sequence needs no other one:
# each thread takes some rows of the batch through all steps and waits for no other. The weights are
# packed once. Every row is summed in one order: the same bits for any team, any cut of the batch.

cdef enum:
    PART_ROWS = 192         # sequences side by side, at most: their state stays in L2

ctypedef struct Run:
    int kind
    bint reverse
    int64_t batch, steps, units, width      # width: units of all gates
    const int64_t *lengths                  # (batch,), or NULL: all steps are valid
    # (batch, steps, ...), saved for the backward pass:
    void *gates                 # width
    void *extra                 # units: see recurrent.inc.h; or NULL
    void *entering              # units: h as it enters the product
    void *kept                  # units: what the cell carries on; it may be entering; or NULL
    const void *bias            # (units,): of the recurrent part of n, GRU
    const uint8_t *state_bits   # (batch, units): of h where it enters the product; or NULL
    double state_scale
    const uint8_t *zone_h       # (batch, steps, units): 1 = new; NULL: the mixture
    const uint8_t *zone_c
    double share_h, share_c     # of the new state; 1 without zoneout


cdef inline void copy_kept(size_t n, const uint8_t *bits, uint64_t bit, double scale, const real *x,
                           real *out) noexcept nogil:
    if bits == NULL:
        memcpy(out, x, n * sizeof(real))
    elif real is float:
        cdrop_active.apply_f32(n, bits, bit, <float> scale, x, out, 0)
    else:
        cdrop_active.apply_f64(n, bits, bit, scale, x, out, 0)


cdef inline void add_kept(size_t n, const uint8_t *bits, uint64_t bit, double scale, const real *x,
                          real *y) noexcept nogil:
    if real is float:
        cdrop_active.axpy_f32(n, bits, bit, <float> scale, x, y)
    else:
        cdrop_active.axpy_f64(n, bits, bit, scale, x, y)


cdef inline void mix(size_t n, const uint8_t *bits, uint64_t bit, double share, const real *fresh,
                     real *state) noexcept nogil:
    """Zoneout, into the state."""
    if real is float:
        cdrop_active.mix_f32(n, bits, bit, <float> share, fresh, state, state)
    else:
        cdrop_active.mix_f64(n, bits, bit, share, fresh, state, state)


cdef inline void mix_back(size_t n, const uint8_t *bits, uint64_t bit, double share, real *d,
                          real *fresh) noexcept nogil:
    if real is float:
        cdrop_active.mix_back_f32(n, bits, bit, <float> share, d, fresh)
    else:
        cdrop_active.mix_back_f64(n, bits, bit, share, d, fresh)


# ---- products with packed weights ----

cdef void pack_weights(const cdrop_factor *w, int64_t first, int64_t n, int64_t depth, real *to,
                       int part, int parts) noexcept nogil:
    """A part of the n columns from `first` on."""
    cdef Block block
    block.row, block.m, block.depth0, block.depth = first, n, 0, depth
    block.rows = tile_columns(to)
    pack_part(w, &block, to, part, parts)


cdef void pack_state(const real *rows, int64_t stride, int64_t m, int64_t depth,
                     real *to) noexcept nogil:
    cdef cdrop_factor f
    cdef int64_t d = 0, high = rounded(m, tile_rows(to))
    memset(&f, 0, sizeof(f))
    f.data, f.panel_stride, f.depth_stride, f.scale = rows, stride, 1, 1.0
    while d < depth:
        pack(&f, 0, m, d, min(<int64_t> DEPTH_BLOCK, depth - d), tile_rows(to), to + high * d)
        d += DEPTH_BLOCK


cdef void times_weights(const real *a, int64_t m, int64_t depth, const real *w, int64_t n, real *c,
                        int64_t c_stride, bint accumulate) noexcept nogil:
    """c__mn (+)= a w, both packed."""
    cdef int64_t d = 0, d_now
    cdef int64_t high = rounded(m, tile_rows(c)), wide = rounded(n, tile_columns(c))
    while d < depth:
        d_now = min(<int64_t> DEPTH_BLOCK, depth - d)
        if real is float:
            cdrop_active.block_f32(m, n, d_now, a + high * d, w + wide * d, c, c_stride,
                                   accumulate or d > 0, NULL)
        else:
            cdrop_active.block_f64(m, n, d_now, a + high * d, w + wide * d, c, c_stride,
                                   accumulate or d > 0, NULL)
        d += DEPTH_BLOCK


# ---- some rows of the batch, from the first step to the last ----

cdef inline int64_t valid_steps(const Run *r, int64_t first, int64_t last) noexcept nogil:
    """Of the longest of these sequences."""
    cdef int64_t longest = 0, b
    if r.lengths == NULL:
        return r.steps
    for b in range(first, last):
        longest = max(longest, r.lengths[b])
    return longest


cdef inline bint is_valid(const Run *r, int64_t b, int64_t t) noexcept nogil:
    return r.lengths == NULL or t < r.lengths[b]


cdef void step_row(const Run *r, int64_t b, int64_t t, real *h, real *c,
                   real *room) noexcept nogil:
    """The cell of one sequence; h and c are its state."""
    cdef int64_t n = r.units, at = b * r.steps + t
    cdef uint64_t bit = <uint64_t> (at * n)
    cdef real *gates = <real *> r.gates + at * r.width
    cdef real *extra = <real *> r.extra + at * n if r.extra != NULL else NULL
    cdef real *kept = <real *> r.kept + at * n if r.kept != NULL else NULL
    cdef bint zone_h = r.share_h != 1.0, zone_c = r.share_c != 1.0
    cdef real *h_new = room if zone_h else h
    cdef real *c_new = room + n if zone_c else c
    if real is float:
        cdrop_active.cell_f32(r.kind, n, gates, extra, <const real *> r.bias, kept, h_new, c_new)
    else:
        cdrop_active.cell_f64(r.kind, n, gates, extra, <const real *> r.bias, kept, h_new, c_new)
    if zone_h:
        mix(n, r.zone_h, bit, r.share_h, h_new, h)
    if zone_c:
        mix(n, r.zone_c, bit, r.share_c, c_new, c)


cdef void run_part(const Run *r, const real *weights, real *h, real *c, real *y, int64_t first,
                   int64_t last, real *room) noexcept nogil:
    cdef int64_t n = r.units, m = last - first, longest = valid_steps(r, first, last)
    cdef int64_t split = 2 * n if r.kind == CDROP_CELL_GRU else r.width
    cdef int64_t i, t, b, at
    cdef real *packed = room + 2 * n
    cdef real *entering = <real *> r.entering
    cdef real *kept = <real *> r.kept
    cdef real *to
    cdef const real *carried = c if r.kind == CDROP_CELL_LSTM else h
    for b in range(first, last):  # what lies behind the end is finite: it meets gradients of zero
        at = (b * r.steps + longest) * n
        memset(entering + at, 0, (r.steps - longest) * n * sizeof(real))
        if y != NULL:
            memset(y + at, 0, (r.steps - longest) * n * sizeof(real))
    for i in range(longest):
        t = longest - 1 - i if r.reverse else i
        for b in range(first, last):
            at = (b * r.steps + t) * n
            copy_kept(n, r.state_bits, <uint64_t> (b * n), r.state_scale, h + b * n, entering + at)
            if kept != NULL and kept != entering:
                memcpy(kept + at, carried + b * n, n * sizeof(real))
        at = first * r.steps + t
        pack_state(entering + at * n, r.steps * n, m, n, packed)
        to = <real *> r.gates + at * r.width
        times_weights(packed, m, n, weights, split, to, r.steps * r.width, True)
        if r.kind == CDROP_CELL_GRU:
            to = <real *> r.extra + at * n
            times_weights(packed, m, n, weights + rounded(split, tile_columns(h)) * n, n, to,
                          r.steps * n, False)
        for b in range(first, last):
            if is_valid(r, b, t):
                step_row(r, b, t, h + b * n, c + b * n, room)
            if y != NULL:
                if is_valid(r, b, t):
                    memcpy(y + (b * r.steps + t) * n, h + b * n, n * sizeof(real))
                else:
                    memset(y + (b * r.steps + t) * n, 0, n * sizeof(real))


cdef void back_row(const Run *r, int64_t b, int64_t t, real *dh, real *dc, real *dgates,
                   real *dback, real *room) noexcept nogil:
    """From the gradient of the state after step t to that before, less what the product adds."""
    cdef int64_t n = r.units, at = b * r.steps + t
    cdef uint64_t bit = <uint64_t> (at * n)
    cdef const real *gates = <const real *> r.gates + at * r.width
    cdef const real *extra = <const real *> r.extra + at * n if r.extra != NULL else NULL
    cdef const real *kept = <const real *> r.kept + at * n if r.kept != NULL else NULL
    cdef real *d = room
    cdef real *dkept = room + n
    cdef bint zone_c = r.share_c != 1.0
    mix_back(n, r.zone_h, bit, r.share_h, dh, d)
    if zone_c:
        mix_back(n, r.zone_c, bit, r.share_c, dc, dkept)
    elif r.kind == CDROP_CELL_LSTM:
        dkept = dc
    if real is float:
        cdrop_active.cell_back_f32(r.kind, n, gates, extra, kept, d, dkept, dgates + at * r.width,
                                   dback + at * r.width)
    else:
        cdrop_active.cell_back_f64(r.kind, n, gates, extra, kept, d, dkept, dgates + at * r.width,
                                   dback + at * r.width)
    if r.kind == CDROP_CELL_GRU:
        add_kept(n, NULL, 0, 1.0, dkept, dh)
    elif zone_c:
        add_kept(n, NULL, 0, 1.0, dkept, dc)


cdef void back_part(const Run *r, const real *weights, const real *dy, real *dh, real *dc,
                    real *dgates, real *dback, int64_t first, int64_t last,
                    real *room) noexcept nogil:
    """dh and dc: in the gradients of the last state, out of the first."""
    cdef int64_t n = r.units, m = last - first, longest = valid_steps(r, first, last)
    cdef int64_t i, t, b, at
    cdef size_t behind = (r.steps - longest) * r.width * sizeof(real)
    cdef real *product = room + 2 * n
    cdef real *packed = product + m * n
    for b in range(first, last):
        at = (b * r.steps + longest) * r.width
        memset(dgates + at, 0, behind)
        memset(dback + at, 0, behind)
    for i in range(longest):
        t = i if r.reverse else longest - 1 - i
        for b in range(first, last):
            at = b * r.steps + t
            if is_valid(r, b, t):
                if dy != NULL:
                    add_kept(n, NULL, 0, 1.0, dy + at * n, dh + b * n)
                back_row(r, b, t, dh + b * n, dc + b * n, dgates, dback, room)
            else:
                memset(dgates + at * r.width, 0, r.width * sizeof(real))
                memset(dback + at * r.width, 0, r.width * sizeof(real))
        pack_state(dback + (first * r.steps + t) * r.width, r.steps * r.width, m, r.width, packed)
        times_weights(packed, m, r.width, weights, n, product, n, False)
        for b in range(first, last):
            if is_valid(r, b, t):
                add_kept(n, r.state_bits, <uint64_t> (b * n), r.state_scale,
                         product + (b - first) * n, dh + b * n)


# ---- the whole batch ----

ctypedef struct Way:
    # Arrays of one pass; y, or dy, may be NULL.
    bint back
    void *h
    void *c
    void *y
    const void *dy
    void *dgates
    void *dback


cdef void run_rows(const Run *r, const Way *way, const real *weights, int64_t first, int64_t last,
                   real *room) noexcept nogil:
    cdef unsigned control = cdrop_flush_denormals()
    if first == 0:
        cdrop_note_team()
    if way.back:
        back_part(r, weights, <const real *> way.dy, <real *> way.h, <real *> way.c,
                  <real *> way.dgates, <real *> way.dback, first, last, room)
    else:
        run_part(r, weights, <real *> way.h, <real *> way.c, <real *> way.y, first, last, room)
    cdrop_restore_denormals(control)


cdef int run_batch(const Run *r, const Way *way, const cdrop_factor *w,
                   const real *of) except -1 nogil:
    """w: with what the product sums over as depth."""
    cdef real *weights = NULL
    cdef int rows = tile_rows(weights), columns = tile_columns(weights)
    cdef int team = cdrop_team_for(
        r.batch * r.steps * (2.0 * r.units * r.width / (80.0 if real is float else 40.0)
                             + 2.0 * r.width))
    cdef int64_t depth = r.width if way.back else r.units, n = r.units if way.back else r.width
    cdef int64_t split = 2 * r.units if r.kind == CDROP_CELL_GRU and not way.back else n
    cdef int64_t wide = rounded(split, columns), all = wide + rounded(n - split, columns)
    cdef int64_t size, room
    cdef int part, parts
    team = <int> max(<int64_t> 1, min(<int64_t> team, (r.batch + rows - 1) // rows))
    parts = <int> (team * ((r.batch + team * PART_ROWS - 1) // (team * PART_ROWS)))
    size = rounded((r.batch + parts - 1) // parts, rows)
    room = rounded(2 * r.units + (size * r.units if way.back else 0) + size * depth + 64, 16)
    weights = <real *> cdrop_scratch_take(<size_t> (all * depth + team * room) * sizeof(real))
    if weights == NULL:
        with gil:
            raise MemoryError("no memory for packing the recurrent weights")
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        pack_weights(w, 0, split, depth, weights, part, team)
        pack_weights(w, split, n - split, depth, weights + wide * depth, part, team)
    for part in prange(parts, num_threads=team, schedule="dynamic", use_threads_if=team > 1):
        run_rows(r, way, weights, chunk_start(r.batch, part, parts, rows),
                 chunk_start(r.batch, part + 1, parts, rows),
                 weights + all * depth + threadid() * room)
    cdrop_scratch_give(weights)
    return 0


cdef class Recurrence:
    """A recurrent layer on a batch, once the product of its inputs is there.

    All arrays are C-contiguous and of one dtype. Masks are packed bits and a scale or a share.

    Parameters
    ----------
    cell : "tanh", "relu", "lstm" or "gru"
    weights : Factor (units, width)
        The recurrent weights, perhaps masked.
    gates : (batch, steps, width)
        In: the product of the inputs. Changed by `forward`.
    entering : (batch, steps, units)
        Filled by `forward`: h as it enters the product, masked.
    kept : (batch, steps, units) or None
        Filled by `forward`: c of LSTM, h of GRU, before each step. It may be `entering`.
    extra : (batch, steps, units) or None
        Filled by `forward`, of LSTM and GRU.
    bias : (units,) or None
        Of the recurrent part of n, GRU.
    lengths : int64 (batch,) or None
    reverse : bool
    state_mask : (bits (batch, units), scale) or None
    zone_h, zone_c : (bits (batch, steps, units) or None, share of the new state) or None
    """

    cdef Run r
    cdef cdrop_factor forward_weights, back_weights
    cdef int dtype
    cdef Factor weights
    cdef Buffer gates, extra, entering, kept, bias, lengths, state_bits, zone_h_bits, zone_c_bits

    def __init__(self, str cell, Factor weights, gates, entering, kept=None, extra=None, bias=None,
                 lengths=None, bint reverse=False, state_mask=None, zone_h=None, zone_c=None):
        cdef int64_t states, b
        self.weights = weights
        self.forward_weights, self.back_weights = weights.transposed(), weights.f
        self.dtype = weights.dtype
        self.gates = array_of("gates", gates, self.dtype, -1, True, 3)
        self.r.kind = {"tanh": CDROP_CELL_TANH, "relu": CDROP_CELL_RELU, "lstm": CDROP_CELL_LSTM,
                       "gru": CDROP_CELL_GRU}[cell]
        self.r.reverse = reverse
        self.r.batch, self.r.steps, self.r.width = (
            self.gates.view.shape[0], self.gates.view.shape[1], self.gates.view.shape[2])
        self.r.units = weights.n_rows
        if (self.r.width != weights.n_columns
                or self.r.width != self.r.units * {"lstm": 4, "gru": 3}.get(cell, 1)):
            raise ValueError(f"weights ({weights.n_rows}, {weights.n_columns}) and gates of width "
                             f"{self.r.width} do not make a cell {cell!r}")
        states = self.r.batch * self.r.steps * self.r.units
        self.entering = array_of("entering", entering, self.dtype, states, True)
        self.kept = optional("kept", kept, self.dtype, states, True)
        self.extra = optional("extra", extra, self.dtype, states, True)
        self.bias = optional("bias", bias, self.dtype, self.r.units)
        self.lengths = optional("lengths", lengths, I64, self.r.batch)
        if ((cell in ("lstm", "gru") and (kept is None or extra is None))
                or (cell == "gru" and bias is None)):
            raise TypeError(f"a cell {cell!r} needs kept and extra, and of GRU also bias")
        self.r.gates, self.r.entering = self.gates.view.buf, self.entering.view.buf
        self.r.kept, self.r.extra = pointer_of(self.kept), pointer_of(self.extra)
        self.r.bias = pointer_of(self.bias)
        self.r.lengths = <const int64_t *> pointer_of(self.lengths)
        for b in range(self.r.batch if lengths is not None else 0):
            if not 0 <= self.r.lengths[b] <= self.r.steps:
                raise ValueError(f"lengths must be in [0, {self.r.steps}]")
        bits, self.r.state_scale = (None, 1.0) if state_mask is None else state_mask
        self.state_bits = optional("bits", bits, U8, (self.r.batch * self.r.units + 7) // 8)
        bits, self.r.share_h = (None, 1.0) if zone_h is None else zone_h
        self.zone_h_bits = optional("bits", bits, U8, (states + 7) // 8)
        bits, self.r.share_c = (None, 1.0) if zone_c is None else zone_c
        self.zone_c_bits = optional("bits", bits, U8, (states + 7) // 8)
        self.r.state_bits = <const uint8_t *> pointer_of(self.state_bits)
        self.r.zone_h = <const uint8_t *> pointer_of(self.zone_h_bits)
        self.r.zone_c = <const uint8_t *> pointer_of(self.zone_c_bits)

    cdef int run(self, Way *way) except -1:
        cdef const cdrop_factor *w = &self.back_weights if way.back else &self.forward_weights
        if self.r.batch == 0 or self.r.steps == 0:
            return 0
        if self.dtype == F32:
            with nogil:
                run_batch[float](&self.r, way, w, NULL)
        else:
            with nogil:
                run_batch[double](&self.r, way, w, NULL)
        return 0

    cdef tuple states(self, h, c, Way *way):
        cdef int64_t size = self.r.batch * self.r.units
        cdef Buffer of_h = array_of("h", h, self.dtype, size, True)
        cdef Buffer of_c = optional("c", c, self.dtype, size, True)
        if (self.r.kind == CDROP_CELL_LSTM) != (of_c is not None):
            raise TypeError("the state is h, and of LSTM also c")
        way.h, way.c = of_h.view.buf, of_h.view.buf if of_c is None else of_c.view.buf
        return of_h, of_c

    def forward(self, h, c, y):
        """h, c (batch, units): first state in, last out. y (batch, steps, units) or None."""
        cdef Way way
        cdef int64_t size = self.r.batch * self.r.steps * self.r.units
        cdef Buffer out = optional("y", y, self.dtype, size, True)
        cdef tuple buffers = self.states(h, c, &way)  # acquired until this call ends
        way.back, way.y, way.dy, way.dgates, way.dback = False, pointer_of(out), NULL, NULL, NULL
        self.run(&way)

    def backward(self, dy, dh, dc, dgates, dback):
        """dh and dc: in the gradients of the last state, out of the first.

        dgates (batch, steps, width), out: of the product of the inputs; dback: of that of the
        states, which is another array for GRU only.
        """
        cdef Way way
        cdef int64_t size = self.r.batch * self.r.steps * self.r.units
        cdef int64_t whole = self.r.batch * self.r.steps * self.r.width
        cdef Buffer given = optional("dy", dy, self.dtype, size)
        cdef Buffer of_input = array_of("dgates", dgates, self.dtype, whole, True)
        cdef Buffer of_state = array_of("dback", dback, self.dtype, whole, True)
        cdef tuple buffers = self.states(dh, dc, &way)  # acquired until this call ends
        way.back, way.y, way.dy = True, NULL, pointer_of(given)
        way.dgates, way.dback = of_input.view.buf, of_state.view.buf
        self.run(&way)


# ---- sums of columns: the gradient of a bias ----

cdef void sum_columns_part(const real *a, int64_t m, int64_t n, real *out, int part,
                           int parts) noexcept nogil:
    cdef int64_t first = chunk_start(n, part, parts, 64)
    cdef int64_t last = chunk_start(n, part + 1, parts, 64), row
    if part == 0:
        cdrop_note_team()
    memset(out + first, 0, (last - first) * sizeof(real))
    for row in range(m):
        add_kept(last - first, NULL, 0, 1.0, a + row * n + first, out + first)


cdef void sum_columns_all(const real *a, int64_t m, int64_t n, real *out) noexcept nogil:
    cdef int team = cdrop_team_for(0.25 * m * n), part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        sum_columns_part(a, m, n, out, part, team)


def sum_columns(a, out):
    """out__n = sum over m of a__mn, row by row; both contiguous."""
    cdef Buffer given = array_of("a", a, REAL, -1, False, 2)
    cdef int64_t m = given.view.shape[0], n = given.view.shape[1]
    cdef Buffer to = array_of("out", out, given.dtype, n, True)
    if given.dtype == F32:
        with nogil:
            sum_columns_all(<const float *> given.view.buf, m, n, <float *> to.view.buf)
    else:
        with nogil:
            sum_columns_all(<const double *> given.view.buf, m, n, <double *> to.view.buf)
