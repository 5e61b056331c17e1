# Masked products: c = act(a @ b + bias), with masks and lists of kept indices in the packing.
#
# The structure is BLIS', with one meeting of the threads: together they pack a, for as much depth
# as the cache takes; then each takes tasks, some columns of b with some rows of a, and packs those
# columns for itself, a block of depth at a time, right before the tiles that read them: what was
# packed is still in L1 and L2. Each element of c sums its depth in one order, whatever the team.

cdef enum:
    ROW_BLOCK = 1920            # rows of c that a packed a covers
    TASK_COLUMNS = 128          # of b, packed at a time by a thread


ctypedef struct Block:
    # Rows [row, row + m) of c, and the depths [depth0, depth0 + depth), of which a is packed.
    int64_t row, m, depth0, depth
    int64_t row_step, column_step, across   # tasks: rows and columns of each, tasks side by side
    int rows, width                         # of the register tile
    bint last                               # no depth is left behind this


cdef void part_columns(Block *block, int64_t n, int team) noexcept nogil:
    """As many tasks as keep all threads busy to the end."""
    cdef int64_t parts = team * ((n + team * TASK_COLUMNS - 1) // (team * TASK_COLUMNS))
    block.column_step = ((n + parts - 1) // parts + block.width - 1) // block.width * block.width
    block.across = (n + block.column_step - 1) // block.column_step


cdef void pack_part(const cdrop_factor *a, const Block *block, real *packed, int part,
                    int parts) noexcept nogil:
    """A part of the panels of a, for each block of depth."""
    cdef int64_t begin = chunk_start(block.m, part, parts, block.rows)
    cdef int64_t end = chunk_start(block.m, part + 1, parts, block.rows)
    cdef int64_t high = (block.m + block.rows - 1) // block.rows * block.rows
    cdef int64_t d = 0, d_now
    cdef unsigned control
    if begin >= end:
        return
    control = cdrop_flush_denormals()
    while d < block.depth:
        d_now = min(<int64_t> DEPTH_BLOCK, block.depth - d)
        pack(a, block.row + begin, end - begin, block.depth0 + d, d_now, block.rows,
             packed + high * d + begin * d_now)
        d += DEPTH_BLOCK
    cdrop_restore_denormals(control)


cdef const cdrop_ahead *ahead_of(const cdrop_factor *f, int64_t first, int64_t n, int64_t depth0,
                                 int64_t depth, Py_ssize_t itemsize,
                                 cdrop_ahead *ahead) noexcept nogil:
    """The lines that packing this part of f will read, or NULL where they are scattered."""
    cdef int64_t row = depth0, column = first
    ahead.also = NULL
    ahead.rows, ahead.bytes, ahead.index = depth, n * itemsize, f.depth_index
    ahead.stride = f.depth_stride * itemsize
    if f.panel_stride != 1:
        row, column = first, depth0
        ahead.rows, ahead.bytes, ahead.index = n, depth * itemsize, f.panel_index
        ahead.stride = f.panel_stride * itemsize
        if f.depth_stride != 1 or f.depth_index != NULL:
            return NULL
    elif f.panel_index != NULL:
        return NULL
    ahead.data = <const char *> f.data + column * itemsize
    if ahead.index != NULL:
        ahead.index += row
    else:
        ahead.data += row * ahead.stride
    return ahead


cdef void product_task(const real *a, const cdrop_factor *b, real *c, int64_t c_stride, int64_t n,
                       const Block *block, int64_t task, int team, real *b_packed,
                       const Epilogue *epilogue) noexcept nogil:
    cdef int64_t i = task // block.across * block.row_step
    cdef int64_t j = task % block.across * block.column_step
    cdef int64_t m_now = min(block.row_step, block.m - i), n_now = min(block.column_step, n - j)
    cdef int64_t high = (block.m + block.rows - 1) // block.rows * block.rows
    cdef int64_t d = 0, d_now, j_next
    cdef real *to = c + (block.row + i) * c_stride + j
    cdef const real *a_now
    cdef cdrop_ahead ahead
    cdef const cdrop_ahead *next
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    while d < block.depth:
        d_now = min(<int64_t> DEPTH_BLOCK, block.depth - d)
        pack(b, j, n_now, block.depth0 + d, d_now, block.width, b_packed)
        a_now = a + high * d + i * d_now
        next = NULL
        j_next = j + team * block.column_step  # most likely this thread's next task
        if d + DEPTH_BLOCK < block.depth:
            next = ahead_of(b, j, n_now, block.depth0 + d + DEPTH_BLOCK,
                            min(<int64_t> DEPTH_BLOCK, block.depth - d - DEPTH_BLOCK),
                            sizeof(real), &ahead)
        elif j_next < n:
            next = ahead_of(b, j_next, min(block.column_step, n - j_next), block.depth0,
                            min(<int64_t> DEPTH_BLOCK, block.depth), sizeof(real), &ahead)
        if real is float:
            cdrop_active.block_f32(m_now, n_now, d_now, a_now, b_packed, to, c_stride,
                                   block.depth0 + d > 0, next)
        else:
            cdrop_active.block_f64(m_now, n_now, d_now, a_now, b_packed, to, c_stride,
                                   block.depth0 + d > 0, next)
        d += DEPTH_BLOCK
    if block.last:
        epilogue_block(c, c_stride, block.row + i, j, m_now, n_now, epilogue)
    cdrop_restore_denormals(control)


cdef int multiply(const cdrop_factor *a, const cdrop_factor *b, real *c, int64_t c_stride,
                  int64_t m, int64_t n, int64_t depth, const Epilogue *epilogue) except -1 nogil:
    cdef const cdrop_kernels *k = cdrop_active
    cdef int rows = k.tile_rows_f32 if real is float else k.tile_rows_f64
    cdef int width = k.tile_columns_f32 if real is float else k.tile_columns_f64
    cdef int team = cdrop_team_for(
        2.0 * m * n * depth / (80.0 if real is float else 40.0) / BARRIER_COST)
    cdef int part
    cdef int64_t task, tasks, r, deep, column_room, row_parts
    cdef real *a_packed
    cdef real *b_packed
    cdef Block block
    if m == 0 or n == 0:
        return 0
    if depth == 0:
        for r in range(m):
            memset(c + r * c_stride, 0, n * sizeof(real))
        epilogue_block(c, c_stride, 0, 0, m, n, epilogue)
        return 0
    if is_tall(a, m, n, depth, sizeof(real)):
        return multiply_plain_tall(a, b, c, c_stride, m, n, depth, epilogue)
    block.rows, block.width = rows, width
    block.m = min(m, <int64_t> (ROW_BLOCK // rows * rows))
    deep = PACKED_BYTES // (<int64_t> sizeof(real) * block.m)
    deep = min(max(deep // DEPTH_BLOCK, <int64_t> 1) * DEPTH_BLOCK, depth)
    part_columns(&block, n, team)
    # Rows are parted only where columns are too few: every part packs its columns again.
    row_parts = (team + block.across - 1) // block.across
    block.row_step = ((block.m + row_parts - 1) // row_parts + rows - 1) // rows * rows
    column_room = block.column_step * min(<int64_t> DEPTH_BLOCK, depth) + 64
    a_packed = <real *> cdrop_scratch_take(
        <size_t> ((block.m + rows) * deep + 64 + team * column_room) * sizeof(real))
    if a_packed == NULL:
        with gil:
            raise MemoryError("no memory for packing the factors of a product")
    b_packed = a_packed + (block.m + rows) * deep + 64
    block.row = 0
    while block.row < m:
        block.m = min(<int64_t> (ROW_BLOCK // rows * rows), m - block.row)
        tasks = (block.m + block.row_step - 1) // block.row_step * block.across
        block.depth0 = 0
        while block.depth0 < depth:
            block.depth = min(deep, depth - block.depth0)
            block.last = block.depth0 + block.depth == depth
            for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
                pack_part(a, &block, a_packed, part, team)
            for task in prange(tasks, num_threads=team, schedule="dynamic",
                               use_threads_if=team > 1):
                product_task(a_packed, b, c, c_stride, n, &block, task, team,
                             b_packed + threadid() * column_room, epilogue)
            block.depth0 += deep
        block.row += block.m
    cdrop_scratch_give(a_packed)
    return 0


def product(c, Factor a, Factor b, bint transpose_a=False, bint transpose_b=False, bias=None,
            bint relu=False, bits=None, double scale=1.0):
    """c__mn = act(a__mk @ b__kn + bias__n), then dropped by bits and scaled.

    c is 2-D, its rows contiguous; bits is the packed mask of c or None.
    """
    cdef Buffer target = buffer_of("out", c, a.dtype, True)
    cdef cdrop_factor fa = a.transposed() if transpose_a else a.f
    cdef cdrop_factor fb = b.f if transpose_b else b.transposed()
    cdef int64_t m = a.n_columns if transpose_a else a.n_rows
    cdef int64_t depth = a.n_rows if transpose_a else a.n_columns
    cdef int64_t b_depth = b.n_columns if transpose_b else b.n_rows
    cdef int64_t n = b.n_rows if transpose_b else b.n_columns
    cdef Py_ssize_t itemsize = a.itemsize
    cdef Buffer bias_buffer = optional("bias", bias, a.dtype, n)
    cdef Buffer packed = optional("bits", bits, U8, (m * n + 7) // 8)
    cdef Epilogue epilogue = epilogue_of(bias_buffer, relu, packed, n, scale)
    if b.dtype != a.dtype:
        raise TypeError("both factors must have one dtype, got "
                        f"{DTYPE_NAMES[a.dtype]} and {DTYPE_NAMES[b.dtype]}")
    if target.view.ndim != 2:
        raise ValueError(f"out must have 2 axes, got {target.view.ndim}")
    if depth != b_depth or target.view.shape[0] != m or target.view.shape[1] != n:
        raise ValueError(
            f"shapes ({m}, {depth}) and ({b_depth}, {n}) do not give "
            f"({target.view.shape[0]}, {target.view.shape[1]})")
    if m == 0 or n == 0:
        return
    if n > 1 and target.view.strides[1] != itemsize:
        raise ValueError("the rows of out must be contiguous")
    cdef int64_t c_stride = target.view.strides[0] // itemsize
    if itemsize == 4:
        with nogil:
            multiply[float](&fa, &fb, <float *> target.view.buf, c_stride, m, n, depth, &epilogue)
    else:
        with nogil:
            multiply[double](&fa, &fb, <double *> target.view.buf, c_stride, m, n, depth, &epilogue)


cdef enum:
    BACKWARD_ROWS = 1024        # that one sum of dbias takes in


cdef void epilogue_backward_task(const real *y, const real *dy, real *dz, real *sums, int64_t m,
                                 int64_t n, double scale, int64_t task, int parts) noexcept nogil:
    """A block of rows and a part of its columns; sums (blocks, n)."""
    cdef int64_t block = task // parts, row = block * BACKWARD_ROWS
    cdef int part = <int> (task % parts)
    cdef int64_t first = chunk_start(n, part, parts, 64)
    cdef int64_t last = chunk_start(n, part + 1, parts, 64)
    cdef size_t now = <size_t> (last - first)
    cdef int64_t r, at
    if task == 0:
        cdrop_note_team()
    sums += block * n + first
    memset(sums, 0, now * sizeof(real))
    for r in range(row, min(row + BACKWARD_ROWS, m)):
        at = r * n + first
        if real is float:
            cdrop_active.epilogue_backward_f32(now, <float> scale, y + at if y != NULL else NULL,
                                               dy + at, dz + at if dz != NULL else NULL, sums)
        else:
            cdrop_active.epilogue_backward_f64(now, scale, y + at if y != NULL else NULL, dy + at,
                                               dz + at if dz != NULL else NULL, sums)


cdef int epilogue_backward_all(const real *y, const real *dy, real *dz, real *dbias, int64_t m,
                               int64_t n, double scale) except -1 nogil:
    cdef int team = cdrop_team_for(0.3 * m * n)
    cdef int64_t blocks = (m + BACKWARD_ROWS - 1) // BACKWARD_ROWS, task
    cdef int parts = team if blocks == 1 else 1
    cdef real *sums = dbias
    if blocks > 1:
        sums = <real *> cdrop_scratch_take(<size_t> (blocks * n) * sizeof(real))
        if sums == NULL:
            with gil:
                raise MemoryError("no memory for the gradient of a bias")
    elif blocks == 0:
        memset(dbias, 0, n * sizeof(real))
    for task in prange(blocks * parts, num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        epilogue_backward_task(y, dy, dz, sums, m, n, scale, task, parts)
    if blocks > 1:
        add_parts(sums, blocks, n, dbias, 0, 1)
        cdrop_scratch_give(sums)
    return 0


def epilogue_backward(dz, y, dy, double scale, dbias):
    """dz__mn = y__mn > 0 ? dy__mn * scale : 0, and dbias__n its sums; all contiguous.

    Without relu y is None. dz may be None where only the sums are wanted.
    """
    cdef Buffer back = array_of("dy", dy, REAL, -1, False, 2)
    cdef int64_t m = back.view.shape[0], n = back.view.shape[1]
    cdef Buffer sums = array_of("dbias", dbias, back.dtype, n, True)
    cdef Buffer forward = optional("y", y, back.dtype, m * n)
    cdef Buffer to = optional("dz", dz, back.dtype, m * n, True)
    cdef const void *from_y = pointer_of(forward)
    cdef void *to_dz = pointer_of(to)
    if back.dtype == F32:
        with nogil:
            epilogue_backward_all[float](<const float *> from_y, <const float *> back.view.buf,
                                         <float *> to_dz, <float *> sums.view.buf, m, n, scale)
    else:
        with nogil:
            epilogue_backward_all[double](<const double *> from_y, <const double *> back.view.buf,
                                          <double *> to_dz, <double *> sums.view.buf, m, n, scale)


# ---- a weight mask for each sample ----

cdef void dropconnect(int part, const cdrop_draw *draw, const uint8_t *bits, uint64_t offset,
                      int64_t samples, int64_t k, int64_t n, const real *a, int64_t a_stride,
                      const real *b, int64_t b_stride, real *out,
                      int64_t out_stride) noexcept nogil:
    """Samples in parallel for y and dx, rows of w for dw; strides are between samples."""
    cdef int team = cdrop_team_for(<double> (samples * k * n) * 0.3)
    cdef int64_t s
    cdef int p
    if part != CDROP_DROPCONNECT_DW:
        for s in prange(samples, num_threads=team, schedule="dynamic", use_threads_if=team > 1):
            if s == 0:
                cdrop_note_team()
            if real is float:
                cdrop_active.dropconnect_f32(part, draw, bits, offset + <uint64_t> (s * k * n), 0,
                                             k * n, n, a + s * a_stride, b + s * b_stride,
                                             out + s * out_stride)
            else:
                cdrop_active.dropconnect_f64(part, draw, bits, offset + <uint64_t> (s * k * n), 0,
                                             k * n, n, a + s * a_stride, b + s * b_stride,
                                             out + s * out_stride)
    else:
        for p in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            dropconnect_dw(draw, bits, offset, samples, k, n, a, a_stride, b, b_stride, out, p,
                           team)


cdef void dropconnect_dw(const cdrop_draw *draw, const uint8_t *bits, uint64_t offset,
                         int64_t samples, int64_t k, int64_t n, const real *a, int64_t a_stride,
                         const real *b, int64_t b_stride, real *out, int part,
                         int parts) noexcept nogil:
    cdef int64_t first = chunk_start(k, part, parts, 1) * n
    cdef int64_t last = chunk_start(k, part + 1, parts, 1) * n, s
    if part == 0:
        cdrop_note_team()
    for s in range(samples):
        if real is float:
            cdrop_active.dropconnect_f32(CDROP_DROPCONNECT_DW, draw, bits,
                                         offset + <uint64_t> (s * k * n), first, last, n,
                                         a + s * a_stride, b + s * b_stride, out)
        else:
            cdrop_active.dropconnect_f64(CDROP_DROPCONNECT_DW, draw, bits,
                                         offset + <uint64_t> (s * k * n), first, last, n,
                                         a + s * a_stride, b + s * b_stride, out)


def dropconnect_matmul(str which, out, a, b, bits, uint64_t seed, uint32_t stream, uint32_t step,
                       uint32_t domain, uint64_t threshold, uint64_t offset):
    """One of the three products with a (B, K, N) weight mask; adds to out. All C-contiguous.

    "y": out (B, N) += a (B, K), b = w (K, N).  "dw": out (K, N) += a (B, K), b = dz (B, N).
    "dx": out (B, K) += a = dz (B, N), b = w (K, N).  bits is None where the mask is drawn.
    """
    cdef Buffer left = array_of("a", a, REAL, -1, False, 2)
    cdef Buffer right = array_of("b", b, left.dtype, -1, False, 2)
    cdef Buffer target = array_of("out", out, left.dtype, -1, True), packed
    cdef const uint8_t *given = NULL
    cdef cdrop_draw d = draw_of(seed, stream, step, domain, threshold)
    cdef int part
    cdef int64_t samples = left.view.shape[0], k, n
    cdef int64_t b_stride = 0, out_stride
    if which == "y":
        part, k, n = CDROP_DROPCONNECT_Y, left.view.shape[1], right.view.shape[1]
        right.expect(k * n)
        target.expect(samples * n)
        out_stride = n
    elif which == "dw":
        part, k, n = CDROP_DROPCONNECT_DW, left.view.shape[1], right.view.shape[1]
        right.expect(samples * n)
        target.expect(k * n)
        out_stride, b_stride = 0, n
    else:
        part, k, n = CDROP_DROPCONNECT_DX, right.view.shape[0], right.view.shape[1]
        right.expect(k * n)
        target.expect(samples * k)
        out_stride = k
    left.expect(samples * (n if which == "dx" else k))
    if bits is not None:
        packed = array_of("bits", bits, U8, (samples * k * n + 7) // 8)
        given = <const uint8_t *> packed.view.buf
        offset = 0
    expect_address(stream, domain, offset, <uint64_t> (samples * k * n))
    if samples * k * n == 0:
        return
    cdef int64_t a_stride = n if which == "dx" else k
    if left.dtype == F32:
        with nogil:
            dropconnect[float](part, &d, given, offset, samples, k, n,
                               <const float *> left.view.buf, a_stride,
                               <const float *> right.view.buf, b_stride,
                               <float *> target.view.buf, out_stride)
    else:
        with nogil:
            dropconnect[double](part, &d, given, offset, samples, k, n,
                                <const double *> left.view.buf, a_stride,
                                <const double *> right.view.buf, b_stride,
                                <double *> target.view.buf, out_stride)


# ---- sparse x ----

cdef void sparse_row(const real *data, const int64_t *columns, int64_t first, int64_t last,
                     const real *b, int64_t n, real *to) noexcept nogil:
    cdef int64_t e, i
    cdef real v
    cdef const real *row
    for e in range(first, last):
        v = data[e]
        row = b + columns[e] * n
        for i in range(n):
            to[i] += v * row[i]


cdef void sparse(const real *data, const int64_t *starts, const int64_t *columns, int64_t rows,
                 const real *b, int64_t n, real *out) noexcept nogil:
    cdef int64_t r
    cdef int team = cdrop_team_for(<double> (starts[rows] * n) * 0.3)
    for r in prange(rows, num_threads=team, schedule="dynamic", chunksize=16,
                    use_threads_if=team > 1):
        if r == 0:
            cdrop_note_team()
        sparse_row(data, columns, starts[r], starts[r + 1], b, n, out + r * n)


def sparse_product(out, data, starts, columns, b):
    """out (R, N) += CSR (R, K) @ b (K, N); starts and columns int64, all contiguous."""
    cdef Buffer right = array_of("b", b, REAL, -1, False, 2)
    cdef Buffer target = array_of("out", out, right.dtype, -1, True, 2)
    cdef int64_t rows = target.view.shape[0], n = right.view.shape[1], i
    cdef Buffer row_starts = array_of("starts", starts, I64, rows + 1)
    cdef const int64_t *s = <const int64_t *> row_starts.view.buf
    cdef Buffer at = array_of("columns", columns, I64, s[rows])
    cdef const int64_t *c = <const int64_t *> at.view.buf
    cdef Buffer values = array_of("data", data, right.dtype, s[rows])
    target.expect(rows * n)
    for i in range(rows):
        if s[i] < 0 or s[i] > s[i + 1]:
            raise ValueError("starts of a CSR array must not fall")
    for i in range(s[rows]):
        if c[i] < 0 or c[i] >= right.view.shape[0]:
            raise IndexError(f"column {c[i]} is outside [0, {right.view.shape[0]})")
    if right.dtype == F32:
        with nogil:
            sparse[float](<const float *> values.view.buf, s, c, rows,
                          <const float *> right.view.buf, n, <float *> target.view.buf)
    else:
        with nogil:
            sparse[double](<const double *> values.view.buf, s, c, rows,
                           <const double *> right.view.buf, n, <double *> target.view.buf)
