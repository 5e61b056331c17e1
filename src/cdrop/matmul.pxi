# Masked products: c = act(a @ b + bias), with masks and lists of live indices in the packing.
#
# The structure is BLIS': blocks of depth that keep a packed panel of b in L1, blocks of rows that
# keep a packed block of a in L2. Both factors are packed once for a block of depth, by all threads,
# and then the grid of tiles of c is shared out. Each element of c sums its depth in one order,
# whatever the team.

cdef enum:
    DEPTH_BLOCK = 256       # of the sum, packed at a time
    ROW_BLOCK = 1920        # rows of c that a packed a covers
    COLUMN_BLOCK = 3072     # columns of c that a packed b covers
    TASK_PANELS = 8         # panels of b, and of a, in a task
    BARRIER_COST = 15       # a thread of a product has to be worth that many of other jobs


cdef class Factor:
    """A matrix of a product: rows x columns of an array, perhaps masked, perhaps only some of them.

    Parameters
    ----------
    array : 2-D float32 or float64, any strides
    rows, columns : int64 array or None
        Live indices; None for all.
    bits : packed mask or None, with bit_strides (row, column)
    scale : float
    """

    cdef cdrop_factor f          # with rows as the panel axis
    cdef readonly int64_t n_rows, n_columns
    cdef Buffer array, row_list, column_list, packed
    cdef readonly Py_ssize_t itemsize

    def __init__(self, array, rows=None, columns=None, bits=None, tuple bit_strides=(0, 0),
                 double scale=1.0):
        cdef Buffer a = Buffer(array)
        if a.view.ndim != 2 or a.view.itemsize not in (4, 8):
            raise ValueError("a factor is a 2-D array of float32 or float64")
        if a.view.strides[0] % a.view.itemsize or a.view.strides[1] % a.view.itemsize:
            raise ValueError("strides must be whole elements")
        self.array = a
        self.itemsize = a.view.itemsize
        self.n_rows, self.n_columns = a.view.shape[0], a.view.shape[1]
        self.f.data = a.view.buf
        self.f.panel_stride = a.view.strides[0] // self.itemsize
        self.f.depth_stride = a.view.strides[1] // self.itemsize
        self.f.panel_index = self.f.depth_index = NULL
        self.f.bits = NULL
        self.f.bit_first = 0
        self.f.bit_panel_stride, self.f.bit_depth_stride = bit_strides
        self.f.scale = scale
        if bits is not None:
            self.packed = Buffer(bits)
            if self.n_rows and self.n_columns:
                self.packed.expect(
                    "bits", 1, (self.f.bit_panel_stride * (self.n_rows - 1)
                                + self.f.bit_depth_stride * (self.n_columns - 1)) // 8 + 1)
            self.f.bits = <const uint8_t *> self.packed.view.buf
        if rows is not None:
            self.row_list = index_list(rows, self.n_rows)
            self.n_rows = self.row_list.size()
            self.f.panel_index = <const int64_t *> self.row_list.view.buf
        if columns is not None:
            self.column_list = index_list(columns, self.n_columns)
            self.n_columns = self.column_list.size()
            self.f.depth_index = <const int64_t *> self.column_list.view.buf

    cdef cdrop_factor transposed(self) noexcept:
        """With columns as the panel axis."""
        cdef cdrop_factor t = self.f
        t.panel_stride, t.depth_stride = self.f.depth_stride, self.f.panel_stride
        t.panel_index, t.depth_index = self.f.depth_index, self.f.panel_index
        t.bit_panel_stride, t.bit_depth_stride = self.f.bit_depth_stride, self.f.bit_panel_stride
        return t


cdef Buffer index_list(indices, int64_t below):
    cdef Buffer b = Buffer(indices)
    cdef const int64_t *at
    cdef int64_t i
    b.expect("indices", 8)
    at = <const int64_t *> b.view.buf
    for i in range(b.size()):
        if at[i] < 0 or at[i] >= below:
            raise IndexError(f"index {at[i]} is outside [0, {below})")
    return b


ctypedef struct Finish:
    void *bias              # or NULL
    int relu
    const uint8_t *bits     # of c, or NULL; bit (row, column) = row * bit_row_stride + column
    int64_t bit_row_stride
    double scale


cdef void finish_row(real *row, int64_t first, int64_t n, int64_t r,
                     const Finish *f) noexcept nogil:
    cdef const cdrop_kernels *k = cdrop_active
    cdef const real *bias = <const real *> f.bias
    cdef uint64_t bit = <uint64_t> (r * f.bit_row_stride + first)
    if bias != NULL:
        bias += first
    cdef int64_t i
    if real is float:
        if bias != NULL or f.relu:
            k.finish_f32(n, bias, f.relu, row)
        if f.bits != NULL:
            k.apply_f32(n, f.bits, bit, <float> f.scale, row, row, 0)
    else:
        if bias != NULL or f.relu:
            k.finish_f64(n, bias, f.relu, row)
        if f.bits != NULL:
            k.apply_f64(n, f.bits, bit, f.scale, row, row, 0)
    if f.bits == NULL and f.scale != 1.0:
        for i in range(n):
            row[i] *= <real> f.scale


cdef void pack_share(const cdrop_factor *f, real *to, int64_t first, int64_t n, int64_t depth0,
                     int64_t depth, int width, int part, int parts) noexcept nogil:
    cdef int64_t begin = share(n, part, parts, width), end = share(n, part + 1, parts, width)
    if begin >= end:
        return
    if real is float:
        cdrop_active.pack_f32(f, first + begin, end - begin, depth0, depth, width,
                              to + begin * depth)
    else:
        cdrop_active.pack_f64(f, first + begin, end - begin, depth0, depth, width,
                              to + begin * depth)


cdef void product_task(const real *a, const real *b, real *c, int64_t c_stride, int64_t row0,
                       int64_t column0, int64_t m, int64_t n, int64_t depth, int rows, int width,
                       int64_t task, bint accumulate, const Finish *finish) noexcept nogil:
    cdef int64_t row_step = rows * TASK_PANELS, column_step = width * TASK_PANELS
    cdef int64_t across = (n + column_step - 1) // column_step
    cdef int64_t i = task // across * row_step, j = task % across * column_step, r
    cdef int64_t m_now = min(row_step, m - i), n_now = min(column_step, n - j)
    cdef real *to = c + (row0 + i) * c_stride + column0 + j
    if task == 0:
        cdrop_note_team()
    if real is float:
        cdrop_active.block_f32(m_now, n_now, depth, a + i * depth, b + j * depth, to, c_stride,
                               accumulate)
    else:
        cdrop_active.block_f64(m_now, n_now, depth, a + i * depth, b + j * depth, to, c_stride,
                               accumulate)
    if finish != NULL:
        for r in range(m_now):
            finish_row(to + r * c_stride, column0 + j, n_now, row0 + i + r, finish)


cdef int multiply(const cdrop_factor *a, const cdrop_factor *b, real *c, int64_t c_stride,
                  int64_t m, int64_t n, int64_t depth, const Finish *finish) except -1 nogil:
    cdef const cdrop_kernels *k = cdrop_active
    cdef int rows = k.tile_rows_f32 if real is float else k.tile_rows_f64
    cdef int width = k.tile_columns_f32 if real is float else k.tile_columns_f64
    cdef int64_t row_block = ROW_BLOCK // rows * rows, column_block = COLUMN_BLOCK // width * width
    cdef int64_t i, j, d, m_now, n_now, d_now, r, tasks, task
    cdef int64_t a_room = min(row_block, (m + rows - 1) // rows * rows)
    cdef int64_t b_room = min(column_block, (n + width - 1) // width * width)
    cdef int64_t d_room = min(<int64_t> DEPTH_BLOCK, depth)
    # A product meets at a barrier twice for every block of depth; when the machine is busy, a
    # barrier can cost far more than a small product.
    cdef int team = cdrop_team_for(
        2.0 * m * n * depth / (40.0 if real is float else 20.0) / BARRIER_COST)
    cdef int part
    cdef real *a_packed
    cdef real *b_packed
    if m == 0 or n == 0:
        return 0
    if depth == 0:
        for r in range(m):
            memset(c + r * c_stride, 0, n * sizeof(real))
            finish_row(c + r * c_stride, 0, n, r, finish)
        return 0
    a_packed = <real *> cdrop_scratch_take(
        <size_t> ((a_room + b_room) * d_room + 64) * sizeof(real))
    if a_packed == NULL:
        with gil:
            raise MemoryError("no memory for packing the factors of a product")
    b_packed = a_packed + a_room * d_room
    j = 0
    while j < n:
        n_now = min(column_block, n - j)
        i = 0
        while i < m:
            m_now = min(row_block, m - i)
            d = 0
            while d < depth:
                d_now = min(<int64_t> DEPTH_BLOCK, depth - d)
                for part in prange(team, num_threads=team, schedule="static",
                                   use_threads_if=team > 1):
                    pack_share(a, a_packed, i, m_now, d, d_now, rows, part, team)
                    pack_share(b, b_packed, j, n_now, d, d_now, width, part, team)
                tasks = ((m_now + rows * TASK_PANELS - 1) // (rows * TASK_PANELS)
                         * ((n_now + width * TASK_PANELS - 1) // (width * TASK_PANELS)))
                for task in prange(tasks, num_threads=team, schedule="dynamic",
                                   use_threads_if=team > 1):
                    product_task(a_packed, b_packed, c, c_stride, i, j, m_now, n_now, d_now, rows,
                                 width, task, d > 0, finish if d + d_now == depth else NULL)
                d += DEPTH_BLOCK
            i += row_block
        j += column_block
    cdrop_scratch_give(a_packed)
    return 0


def product(c, Factor a, Factor b, bint transpose_a=False, bint transpose_b=False, bias=None,
            bint relu=False, bits=None, double scale=1.0):
    """c__mn = act(a__mk @ b__kn + bias__n), then dropped by bits and scaled.

    c is 2-D, its rows contiguous; bits is the packed mask of c or None.
    """
    cdef Buffer target = Buffer(c, True), bias_buffer, packed
    cdef cdrop_factor fa = a.transposed() if transpose_a else a.f
    cdef cdrop_factor fb = b.f if transpose_b else b.transposed()
    cdef int64_t m = a.n_columns if transpose_a else a.n_rows
    cdef int64_t depth = a.n_rows if transpose_a else a.n_columns
    cdef int64_t b_depth = b.n_columns if transpose_b else b.n_rows
    cdef int64_t n = b.n_rows if transpose_b else b.n_columns
    cdef Py_ssize_t itemsize = a.itemsize
    cdef Finish finish
    if b.itemsize != itemsize or target.view.itemsize != itemsize or target.view.ndim != 2:
        raise ValueError("a, b and c must be matrices of one dtype")
    if depth != b_depth or target.view.shape[0] != m or target.view.shape[1] != n:
        raise ValueError(
            f"shapes ({m}, {depth}) and ({b_depth}, {n}) do not give "
            f"({target.view.shape[0]}, {target.view.shape[1]})")
    if m == 0 or n == 0:
        return
    if n > 1 and target.view.strides[1] != itemsize:
        raise ValueError("the rows of c must be contiguous")
    finish.bias = NULL
    finish.relu = relu
    finish.bits = NULL
    finish.bit_row_stride = n
    finish.scale = scale
    if bias is not None:
        bias_buffer = Buffer(bias)
        bias_buffer.expect("bias", itemsize, n)
        finish.bias = bias_buffer.view.buf
    if bits is not None:
        packed = Buffer(bits)
        packed.expect("bits", 1, (m * n + 7) // 8)
        finish.bits = <const uint8_t *> packed.view.buf
    cdef int64_t c_stride = target.view.strides[0] // itemsize
    if itemsize == 4:
        with nogil:
            multiply[float](&fa, &fb, <float *> target.view.buf, c_stride, m, n, depth, &finish)
    else:
        with nogil:
            multiply[double](&fa, &fb, <double *> target.view.buf, c_stride, m, n, depth, &finish)


# ---- a weight mask for each sample ----

cdef void connect(int part, const cdrop_draw *draw, const uint8_t *bits, uint64_t offset,
                  int64_t samples, int64_t k, int64_t n, const real *a, int64_t a_stride,
                  const real *b, int64_t b_stride, real *out, int64_t out_stride) noexcept nogil:
    """Samples in parallel for y and dx, rows of w for dw; strides are between samples."""
    cdef int team = cdrop_team_for(<double> (samples * k * n) * 0.3)
    cdef int64_t s
    cdef int p
    if part != CDROP_CONNECT_DW:
        for s in prange(samples, num_threads=team, schedule="dynamic", use_threads_if=team > 1):
            if s == 0:
                cdrop_note_team()
            if real is float:
                cdrop_active.connect_f32(part, draw, bits, offset + <uint64_t> (s * k * n), 0,
                                         k * n, n, a + s * a_stride, b + s * b_stride,
                                         out + s * out_stride)
            else:
                cdrop_active.connect_f64(part, draw, bits, offset + <uint64_t> (s * k * n), 0,
                                         k * n, n, a + s * a_stride, b + s * b_stride,
                                         out + s * out_stride)
    else:
        for p in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            connect_dw(draw, bits, offset, samples, k, n, a, a_stride, b, b_stride, out, p, team)


cdef void connect_dw(const cdrop_draw *draw, const uint8_t *bits, uint64_t offset, int64_t samples,
                     int64_t k, int64_t n, const real *a, int64_t a_stride, const real *b,
                     int64_t b_stride, real *out, int part, int parts) noexcept nogil:
    cdef int64_t first = share(k, part, parts, 1) * n, last = share(k, part + 1, parts, 1) * n, s
    if part == 0:
        cdrop_note_team()
    for s in range(samples):
        if real is float:
            cdrop_active.connect_f32(CDROP_CONNECT_DW, draw, bits, offset + <uint64_t> (s * k * n),
                                     first, last, n, a + s * a_stride, b + s * b_stride, out)
        else:
            cdrop_active.connect_f64(CDROP_CONNECT_DW, draw, bits, offset + <uint64_t> (s * k * n),
                                     first, last, n, a + s * a_stride, b + s * b_stride, out)


def connect_product(str which, out, a, b, bits, uint64_t seed, uint32_t stream, uint32_t step,
                    uint32_t domain, uint64_t threshold, uint64_t offset):
    """One of the three products with a (B, K, N) weight mask; adds to out. All C-contiguous.

    "y": out (B, N) += a (B, K), b = w (K, N).  "dw": out (K, N) += a (B, K), b = dz (B, N).
    "dx": out (B, K) += a = dz (B, N), b = w (K, N).  bits is None where the mask is drawn.
    """
    cdef Buffer target = Buffer(out, True), left = Buffer(a), right = Buffer(b), packed
    cdef const uint8_t *given = NULL
    cdef cdrop_draw d = draw_of(seed, stream, step, domain, threshold)
    cdef int part
    cdef int64_t samples = left.view.shape[0], k, n
    cdef Py_ssize_t itemsize = left.view.itemsize
    cdef int64_t b_stride = 0, out_stride
    if which == "y":
        part, k, n = CDROP_CONNECT_Y, left.view.shape[1], right.view.shape[1]
        right.expect("w", itemsize, k * n)
        target.expect("y", itemsize, samples * n)
        out_stride = n
    elif which == "dw":
        part, k, n = CDROP_CONNECT_DW, left.view.shape[1], right.view.shape[1]
        right.expect("dz", itemsize, samples * n)
        target.expect("dw", itemsize, k * n)
        out_stride, b_stride = 0, n
    else:
        part, k, n = CDROP_CONNECT_DX, right.view.shape[0], right.view.shape[1]
        right.expect("w", itemsize, k * n)
        target.expect("dx", itemsize, samples * k)
        out_stride = k
    left.expect("a", itemsize, samples * (n if which == "dx" else k))
    if bits is not None:
        packed = Buffer(bits)
        packed.expect("bits", 1, (samples * k * n + 7) // 8)
        given = <const uint8_t *> packed.view.buf
        offset = 0
    expect_address(stream, domain, offset, <uint64_t> (samples * k * n))
    if samples * k * n == 0:
        return
    cdef int64_t a_stride = n if which == "dx" else k
    if itemsize == 4:
        with nogil:
            connect[float](part, &d, given, offset, samples, k, n, <const float *> left.view.buf,
                           a_stride, <const float *> right.view.buf, b_stride,
                           <float *> target.view.buf, out_stride)
    else:
        with nogil:
            connect[double](part, &d, given, offset, samples, k, n, <const double *> left.view.buf,
                            a_stride, <const double *> right.view.buf, b_stride,
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
    cdef Buffer target = Buffer(out, True), values = Buffer(data), right = Buffer(b)
    cdef Buffer row_starts = Buffer(starts), at = Buffer(columns)
    cdef Py_ssize_t itemsize = right.view.itemsize
    cdef int64_t rows = target.view.shape[0], n = right.view.shape[1], i
    row_starts.expect("starts", 8, rows + 1)
    cdef const int64_t *s = <const int64_t *> row_starts.view.buf
    at.expect("columns", 8, s[rows])
    cdef const int64_t *c = <const int64_t *> at.view.buf
    values.expect("data", itemsize, s[rows])
    right.expect("b", itemsize)
    target.expect("out", itemsize, rows * n)
    for i in range(rows):
        if s[i] < 0 or s[i] > s[i + 1]:
            raise ValueError("starts of a CSR array must not fall")
    for i in range(s[rows]):
        if c[i] < 0 or c[i] >= right.view.shape[0]:
            raise IndexError(f"column {c[i]} is outside [0, {right.view.shape[0]})")
    if itemsize == 4:
        with nogil:
            sparse[float](<const float *> values.view.buf, s, c, rows,
                          <const float *> right.view.buf, n, <float *> target.view.buf)
    else:
        with nogil:
            sparse[double](<const double *> values.view.buf, s, c, rows,
                           <const double *> right.view.buf, n, <double *> target.view.buf)
