# Attention: heads, queries and, backwards, keys are shared out among threads.

cdef enum:
    QUERY_TILES = 4         # of one head that a thread takes at a time, where heads are few


cdef Buffer heads_of(str name, array, int dtype, cdrop_heads *h, bint writable=False):
    """An array (batch, heads, rows, numbers); its rows are contiguous."""
    cdef Buffer b = buffer_of(name, array, dtype, writable)
    cdef int64_t itemsize = b.view.itemsize
    cdef int d
    if b.view.ndim != 4:
        raise ValueError(f"{name} must have 4 axes, got {b.view.ndim}")
    if b.view.shape[3] > 1 and b.view.strides[3] != itemsize:
        raise ValueError(f"the rows of {name} must be contiguous")
    for d in range(3):
        if b.view.strides[d] % itemsize:
            raise ValueError(f"the strides of {name} must be whole elements")
    h.data = b.view.buf
    # A shared axis of length 1 is stepped over, not along.
    h.batch = b.view.strides[0] // itemsize if b.view.shape[0] > 1 else 0
    h.head = b.view.strides[1] // itemsize if b.view.shape[1] > 1 else 0
    h.row = b.view.strides[2] // itemsize if b.view.shape[2] > 1 else 0
    return b


cdef int expect_shape(Buffer b, int64_t batches, int64_t heads, int64_t rows, int64_t size,
                      bint shared=False) except -1:
    cdef int64_t *expected = [batches, heads, rows, size]
    cdef int d
    for d in range(4):
        if b.view.shape[d] != expected[d] and not (shared and d < 3 and b.view.shape[d] == 1):
            raise ValueError(f"{b.name} must be ({batches}, {heads}, {rows}, {size}), got "
                             f"{tuple([b.view.shape[e] for e in range(4)])}")
    return 0


cdef int expect_separate_rows(Buffer b) except -1:
    """What is written has no two elements in one place, as far as a zero stride tells."""
    cdef int d
    for d in range(3):
        if b.view.len and b.view.shape[d] > 1 and b.view.strides[d] == 0:
            raise ValueError(f"{b.name} must not be broadcast")
    return 0


cdef class Attention:
    """One call of attention and its backward pass: what is given to both.

    Parameters
    ----------
    q, k, v : float32 or float64 (batch, heads, queries or keys, numbers), rows contiguous
        k and v may have fewer heads, which divide those of q.
    scale : float
    causal : bool
    lengths : int64 (batch,) or None
        Keys that are seen, each in [0, keys].
    bias : (batch or 1, heads or 1, queries or 1, keys) or None
    address : (seed, stream, step, domain, threshold) of a mask, or None
    bits : packed mask or None
        `address` or `bits`, or neither: nothing is dropped.
    offset : int
        Index of element (0, 0, 0, 0).
    bit_strides : (batch, heads, queries, keys)
    keep_scale : float
    """

    cdef cdrop_attention a
    cdef Buffer q, k, v, bias, lengths, bits
    cdef int dtype

    def __init__(self, q, k, v, double scale, bint causal=False, lengths=None, bias=None,
                 tuple address=None, bits=None, uint64_t offset=0,
                 tuple bit_strides=(0, 0, 0, 0), double keep_scale=1.0):
        cdef cdrop_attention *a = &self.a
        cdef const int64_t *length
        cdef int64_t b, last
        cdef uint64_t seed, threshold
        cdef uint32_t stream, step, domain
        memset(a, 0, sizeof(cdrop_attention))
        self.q = heads_of("q", q, REAL, &a.q)
        self.dtype = self.q.dtype
        self.k = heads_of("k", k, self.dtype, &a.k)
        self.v = heads_of("v", v, self.dtype, &a.v)
        a.batches, a.heads, a.queries, a.size = [self.q.view.shape[d] for d in range(4)]
        a.key_heads, a.keys = self.k.view.shape[1], self.k.view.shape[2]
        a.value_size = self.v.view.shape[3]
        expect_shape(self.k, a.batches, a.key_heads, a.keys, a.size)
        expect_shape(self.v, a.batches, a.key_heads, a.keys, a.value_size)
        if a.heads and (a.key_heads == 0 or a.heads % a.key_heads):
            raise ValueError(f"{a.heads} heads do not share {a.key_heads}")
        if causal and a.queries != a.keys:
            raise ValueError(f"causal attention needs as many queries as keys, got {a.queries} "
                             f"and {a.keys}")
        a.scale, a.causal, a.keep_scale = scale, causal, keep_scale
        if bias is not None:
            self.bias = heads_of("bias", bias, self.dtype, &a.bias)
            expect_shape(self.bias, a.batches, a.heads, a.queries, a.keys, True)
        if lengths is not None:
            self.lengths = array_of("lengths", lengths, I64, a.batches)
            length = <const int64_t *> self.lengths.view.buf
            for b in range(a.batches):
                if length[b] < 0 or length[b] > a.keys:
                    raise ValueError(f"lengths must be in [0, {a.keys}], got {length[b]}")
            a.lengths = length
        a.dropped = address is not None or bits is not None
        a.offset = offset
        a.bit_batch, a.bit_head, a.bit_query, a.bit_key = bit_strides
        if min(bit_strides) < 0:
            raise ValueError(f"bit_strides must not be negative, got {bit_strides}")
        last = (max(a.batches - 1, <int64_t> 0) * a.bit_batch
                + max(a.heads - 1, <int64_t> 0) * a.bit_head
                + max(a.queries - 1, <int64_t> 0) * a.bit_query
                + max(a.keys - 1, <int64_t> 0) * a.bit_key)
        if bits is not None:
            self.bits = array_of("bits", bits, U8)
            if a.batches and a.heads and a.queries and a.keys:
                self.bits.expect((<int64_t> offset + last) // 8 + 1)
            a.bits = <const uint8_t *> self.bits.view.buf
        elif address is not None:
            seed, stream, step, domain, threshold = address
            expect_address(stream, domain, offset, <uint64_t> last + 1)
            if a.bit_key != 1 or a.bit_query != a.keys:
                raise ValueError("a drawn mask has its queries and keys in C order")
            a.draw = draw_of(seed, stream, step, domain, threshold)

    def forward(self, out, logsumexp=None):
        """Fill out (batch, heads, queries, value_size) and logsumexp (batch, heads, queries)."""
        cdef cdrop_attention *a = &self.a
        cdef cdrop_heads to
        cdef Buffer target = heads_of("out", out, self.dtype, &to, True)
        cdef Buffer sums = optional("logsumexp", logsumexp, self.dtype,
                                    a.batches * a.heads * a.queries, True)
        cdef void *to_sums = pointer_of(sums)
        expect_shape(target, a.batches, a.heads, a.queries, a.value_size)
        expect_separate_rows(target)
        if self.dtype == F32:
            with nogil:
                attend[float](a, &to, <float *> to_sums)
        else:
            with nogil:
                attend[double](a, &to, <double *> to_sums)

    def backward(self, dout, out, logsumexp, dq, dk, dv):
        """Fill dq, dk and dv, of the shapes of q, k and v."""
        cdef cdrop_attention *a = &self.a
        cdef cdrop_heads y, dy, to_q, to_k, to_v
        cdef Buffer forward = heads_of("out", out, self.dtype, &y)
        cdef Buffer back = heads_of("dout", dout, self.dtype, &dy)
        cdef Buffer sums = array_of("logsumexp", logsumexp, self.dtype,
                                    a.batches * a.heads * a.queries)
        cdef Buffer q = heads_of("dq", dq, self.dtype, &to_q, True)
        cdef Buffer k = heads_of("dk", dk, self.dtype, &to_k, True)
        cdef Buffer v = heads_of("dv", dv, self.dtype, &to_v, True)
        expect_shape(forward, a.batches, a.heads, a.queries, a.value_size)
        expect_shape(back, a.batches, a.heads, a.queries, a.value_size)
        expect_shape(q, a.batches, a.heads, a.queries, a.size)
        expect_shape(k, a.batches, a.key_heads, a.keys, a.size)
        expect_shape(v, a.batches, a.key_heads, a.keys, a.value_size)
        for written in (q, k, v):
            expect_separate_rows(written)
        if self.dtype == F32:
            with nogil:
                attend_back[float](a, &y, &dy, <const float *> sums.view.buf, &to_q, &to_k, &to_v)
        else:
            with nogil:
                attend_back[double](a, &y, &dy, <const double *> sums.view.buf, &to_q, &to_k,
                                    &to_v)


cdef double attention_work(const cdrop_attention *a, int products, real *of) noexcept nogil:
    """Nanoseconds: a product of queries and keys of each head, so many times."""
    cdef double speed = (80.0 if real is float else 40.0) * BARRIER_COST
    cdef double pairs = <double> a.queries * a.keys * (0.5 if a.causal else 1.0)
    return 2.0 * products * a.batches * a.heads * pairs * max(a.size, a.value_size) / speed


cdef char *attention_rooms(const cdrop_attention *a, int team, bint backward, size_t *room,
                           size_t more, real *of) except NULL nogil:
    """A room for each thread, of `room` bytes, and so many bytes more."""
    cdef char *rooms
    cdef int t
    if real is float:
        room[0] = cdrop_attention_room_f32(a, backward)
    else:
        room[0] = cdrop_attention_room_f64(a, backward)
    rooms = <char *> cdrop_scratch_take(room[0] * team + more)
    if rooms == NULL:
        with gil:
            raise MemoryError("no memory for the packed keys and values of attention")
    for t in range(team):
        if real is float:
            cdrop_attention_begin_f32(rooms + t * room[0])
        else:
            cdrop_attention_begin_f64(rooms + t * room[0])
    return rooms


cdef void attend_task(const cdrop_attention *a, const cdrop_heads *out, real *logsumexp,
                      int64_t task, int64_t parts, int64_t step, char *room) noexcept nogil:
    cdef int64_t head = task // parts, first = task % parts * step
    cdef int64_t last = min(first + step, a.queries)
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    if real is float:
        cdrop_attend_f32(a, head // a.heads, head % a.heads, first, last, out, logsumexp, room)
    else:
        cdrop_attend_f64(a, head // a.heads, head % a.heads, first, last, out, logsumexp, room)
    cdrop_restore_denormals(control)


cdef int attend(const cdrop_attention *a, const cdrop_heads *out,
                real *logsumexp) except -1 nogil:
    cdef int team = cdrop_team_for(attention_work(a, 2, logsumexp))
    cdef int64_t heads = a.batches * a.heads, step = a.queries, parts, task
    cdef size_t room
    cdef char *rooms
    if heads == 0 or a.queries == 0:
        return 0
    if heads < 4 * team:
        step = min(step, <int64_t> QUERY_TILES * CDROP_TILE_QUERIES)
    parts = (a.queries + step - 1) // step
    rooms = attention_rooms(a, team, False, &room, 0, logsumexp)
    for task in prange(heads * parts, num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        attend_task(a, out, logsumexp, task, parts, step, rooms + threadid() * room)
    cdrop_scratch_give(rooms)
    return 0


# ---- backward: keys in parts, whose gradients of q are added in order ----

ctypedef struct Backward:
    const cdrop_attention *a
    const cdrop_heads *out
    const cdrop_heads *dout
    const cdrop_heads *dq
    const cdrop_heads *dk
    const cdrop_heads *dv
    int64_t parts, keys     # parts of so many keys
    int64_t group           # heads that share keys
    int64_t slab            # numbers of one sum for dq


cdef void add_slab(const Backward *b, int64_t pair, const real *slab,
                   bint accumulate) noexcept nogil:
    """To the dq of the heads that share a head of keys."""
    cdef const cdrop_attention *a = b.a
    cdef int64_t h, i, d
    cdef real *to
    for h in range(b.group):
        for i in range(a.queries):
            to = <real *> b.dq.data + (pair // a.key_heads * b.dq.batch
                                       + (pair % a.key_heads * b.group + h) * b.dq.head
                                       + i * b.dq.row)
            for d in range(a.size):
                to[d] = slab[d] + (to[d] if accumulate else <real> 0)
            slab += a.size


cdef void attend_back_part(const Backward *b, const real *logsumexp, int64_t pair, int64_t part,
                           real *dq, int64_t dq_head, int64_t dq_row, char *room) noexcept nogil:
    cdef const cdrop_attention *a = b.a
    cdef int64_t batch = pair // a.key_heads, head = pair % a.key_heads
    cdef int64_t first = part * b.keys, last = min(first + b.keys, a.keys)
    if real is float:
        cdrop_attend_back_f32(a, batch, head, first, last, b.out, b.dout, logsumexp, b.dk, b.dv,
                              dq, dq_head, dq_row, room)
    else:
        cdrop_attend_back_f64(a, batch, head, first, last, b.out, b.dout, logsumexp, b.dk, b.dv,
                              dq, dq_head, dq_row, room)


cdef void attend_back_task(const Backward *b, const real *logsumexp, int64_t task, bint split,
                           real *slab, char *room) noexcept nogil:
    """All parts of a head of keys, one after the other, or one of them."""
    cdef const cdrop_attention *a = b.a
    cdef int64_t pair = task // b.parts if split else task, part
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    if split:
        attend_back_part(b, logsumexp, pair, task % b.parts, slab, a.queries * a.size, a.size, room)
    elif b.parts == 1:
        attend_back_part(b, logsumexp, pair, 0,
                         <real *> b.dq.data + (pair // a.key_heads * b.dq.batch
                                               + pair % a.key_heads * b.group * b.dq.head),
                         b.dq.head, b.dq.row, room)
    else:
        for part in range(b.parts):
            attend_back_part(b, logsumexp, pair, part, slab, a.queries * a.size, a.size, room)
            add_slab(b, pair, slab, part > 0)
    cdrop_restore_denormals(control)


cdef int attend_back(const cdrop_attention *a, const cdrop_heads *out, const cdrop_heads *dout,
                     const real *logsumexp, const cdrop_heads *dq, const cdrop_heads *dk,
                     const cdrop_heads *dv) except -1 nogil:
    cdef int team = cdrop_team_for(attention_work(a, 5, <real *> NULL))
    cdef int64_t pairs = a.batches * a.key_heads, task, part, slabs
    cdef size_t room
    cdef char *rooms
    cdef real *slab
    cdef bint split
    cdef Backward b
    b.a, b.out, b.dout, b.dq, b.dk, b.dv = a, out, dout, dq, dk, dv
    if pairs == 0:
        return 0
    b.keys = cdrop_attention_part(a)
    b.parts = max((a.keys + b.keys - 1) // b.keys, <int64_t> 1)
    b.group = a.heads // a.key_heads
    b.slab = rounded(b.group * a.queries * a.size, 16) if b.parts > 1 else 0
    split = b.parts > 1 and pairs < 2 * team
    slabs = pairs * b.parts if split else team
    rooms = attention_rooms(a, team, True, &room, <size_t> (slabs * b.slab) * sizeof(real),
                            <real *> NULL)
    slab = <real *> (rooms + team * room)
    for task in prange(pairs * (b.parts if split else 1), num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        attend_back_task(&b, logsumexp, task, split,
                         slab + (task if split else threadid()) * b.slab,
                         rooms + threadid() * room)
    if split:
        for task in prange(pairs, num_threads=team, schedule="static", use_threads_if=team > 1):
            add_slabs(&b, task, slab + task * b.parts * b.slab)
    cdrop_scratch_give(rooms)
    return 0


cdef void add_slabs(const Backward *b, int64_t pair, const real *slab) noexcept nogil:
    cdef int64_t part
    for part in range(b.parts):
        add_slab(b, pair, slab + part * b.slab, part > 0)
