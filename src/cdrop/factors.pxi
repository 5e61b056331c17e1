# What all products share: factors and their packing, the epilogue of a finished block of the
# result, and sums that were made in parts.

cdef enum:
    DEPTH_BLOCK = 256           # of the sum, between two visits to c
    PACKED_BYTES = 8 << 20      # of a packed factor, about
    BARRIER_COST = 5            # a thread of a product has to be worth that many of other jobs
    TASKS = 16                  # of the gradient of a kernel, at least where it is large
    PART_BYTES = 16 << 20       # of their sums, at most


cdef class Factor:
    """A matrix of a product: rows x columns of an array, perhaps masked, perhaps only some of them.

    Parameters
    ----------
    array : 2-D float32 or float64, any strides
    rows, columns : int64 array or None
        Indices of what is kept; None for all.
    bits : packed mask or None, with bit_strides (row, column)
    scale : float
    """

    cdef cdrop_factor f          # with rows as the panel axis
    cdef readonly int64_t n_rows, n_columns
    cdef Buffer array, row_list, column_list, packed
    cdef int dtype
    cdef readonly Py_ssize_t itemsize

    def __init__(self, array, rows=None, columns=None, bits=None, tuple bit_strides=(0, 0),
                 double scale=1.0):
        cdef Buffer a = buffer_of("a factor", array, REAL)
        if a.view.ndim != 2:
            raise ValueError(f"a factor must have 2 axes, got {a.view.ndim}")
        if a.view.strides[0] % a.view.itemsize or a.view.strides[1] % a.view.itemsize:
            raise ValueError("strides must be whole elements")
        self.array, self.dtype = a, a.dtype
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
            self.packed = array_of("bits", bits, U8)
            if self.n_rows and self.n_columns:
                self.packed.expect(
                    (self.f.bit_panel_stride * (self.n_rows - 1)
                     + self.f.bit_depth_stride * (self.n_columns - 1)) // 8 + 1)
            self.f.bits = <const uint8_t *> self.packed.view.buf
        if rows is not None:
            self.row_list = index_list("rows", rows, self.n_rows)
            self.n_rows = self.row_list.size()
            self.f.panel_index = <const int64_t *> self.row_list.view.buf
        if columns is not None:
            self.column_list = index_list("columns", columns, self.n_columns)
            self.n_columns = self.column_list.size()
            self.f.depth_index = <const int64_t *> self.column_list.view.buf

    cdef cdrop_factor transposed(self) noexcept:
        """With columns as the panel axis."""
        cdef cdrop_factor t = self.f
        t.panel_stride, t.depth_stride = self.f.depth_stride, self.f.panel_stride
        t.panel_index, t.depth_index = self.f.depth_index, self.f.panel_index
        t.bit_panel_stride, t.bit_depth_stride = self.f.bit_depth_stride, self.f.bit_panel_stride
        return t


ctypedef struct Epilogue:
    void *bias              # or NULL
    int relu
    const uint8_t *bits     # of c, or NULL; bit (row, column) = row * bit_row_stride + column
    int64_t bit_row_stride
    double scale


cdef Epilogue epilogue_of(Buffer bias, bint relu, Buffer bits, int64_t columns,
                          double scale) noexcept:
    cdef Epilogue e
    e.bias, e.relu, e.scale = pointer_of(bias), relu, scale
    e.bits, e.bit_row_stride = <const uint8_t *> pointer_of(bits), columns
    return e


cdef void epilogue_block(real *c, int64_t c_stride, int64_t row, int64_t column, int64_t m,
                         int64_t n, const Epilogue *f) noexcept nogil:
    """The block of c from (row, column) on."""
    cdef const real *bias = <const real *> f.bias
    cdef uint64_t bit = <uint64_t> (row * f.bit_row_stride + column)
    cdef real *to = c + row * c_stride + column
    if bias == NULL and not f.relu and f.bits == NULL and f.scale == 1.0:
        return
    if bias != NULL:
        bias += column
    if real is float:
        cdrop_active.epilogue_f32(m, n, bias, f.relu, f.bits, bit, f.bit_row_stride,
                                  <float> f.scale, to, c_stride)
    else:
        cdrop_active.epilogue_f64(m, n, bias, f.relu, f.bits, bit, f.bit_row_stride, f.scale, to,
                                  c_stride)


cdef void pack(const cdrop_factor *f, int64_t first, int64_t n, int64_t depth0, int64_t depth,
               int width, real *to) noexcept nogil:
    if real is float:
        cdrop_active.pack_f32(f, first, n, depth0, depth, width, to)
    else:
        cdrop_active.pack_f64(f, first, n, depth0, depth, width, to)


cdef inline int tile_rows(real *of) noexcept nogil:
    return cdrop_active.tile_rows_f32 if real is float else cdrop_active.tile_rows_f64


cdef inline int tile_columns(real *of) noexcept nogil:
    return cdrop_active.tile_columns_f32 if real is float else cdrop_active.tile_columns_f64


cdef cdrop_factor plain_factor(const void *data, int64_t columns) noexcept nogil:
    """A contiguous matrix with its columns as the panel axis."""
    cdef cdrop_factor f
    f.data = data
    f.panel_stride, f.depth_stride = 1, columns
    f.panel_index = f.depth_index = NULL
    f.bits = NULL
    f.bit_first = f.bit_panel_stride = f.bit_depth_stride = 0
    f.scale = 1.0
    return f


cdef void add_parts(const real *sums, int64_t parts, int64_t size, real *total, int part_of,
                    int parts_of) noexcept nogil:
    """total = sums[0] + sums[1] + ..., one after the other."""
    cdef int64_t first = chunk_start(size, part_of, parts_of, 1024), p, i
    cdef int64_t last = chunk_start(size, part_of + 1, parts_of, 1024)
    for i in range(first, last):
        total[i] = sums[i]
    for p in range(1, parts):
        for i in range(first, last):
            total[i] += sums[p * size + i]
