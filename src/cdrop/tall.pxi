# Tall products: thousands of rows, tens of columns. The right factor is packed once; then each
# thread takes rows of the result and reads the left factor in place, through pointers to lines:
# patches of images (convolution.pxi), or the rows of a plain matrix.

cdef enum:
    LINE_ROWS = 96              # rows whose lines a thread holds, at most
    LEAST_ROWS = 12             # whole tiles on every ISA, as is LINE_ROWS
    CHUNK = 320                 # numbers of a patch between two visits to c, at most
    LEAST_CHUNK = 64            # below that several runs are put together


ctypedef struct Chunks:
    # The numbers of a patch, cut where no run is cut needlessly.
    int64_t depth, run, pieces, piece, count
    int64_t room            # of a line that has to be put together


cdef void cut_chunks(const cdrop_patches *p, Chunks *chunks) noexcept nogil:
    chunks.run = p.taken
    if p.dilation_width == 1 and p.taken == p.channels:
        chunks.run *= p.kernel_width
    chunks.depth = p.kernel_height * p.kernel_width * p.taken
    if chunks.run >= LEAST_CHUNK:
        chunks.pieces = (chunks.run + CHUNK - 1) // CHUNK
        chunks.piece = (chunks.run + chunks.pieces - 1) // chunks.pieces
        chunks.count = chunks.depth // chunks.run * chunks.pieces
    else:
        chunks.pieces = 1
        chunks.run = chunks.piece = max(CHUNK // max(chunks.run, <int64_t> 1), 1) * chunks.run
        chunks.count = (chunks.depth + chunks.run - 1) // max(chunks.run, <int64_t> 1)
    # At least a tile's rows, and an odd number of cache lines, so that lines differ in their place.
    chunks.room = (max(chunks.piece, <int64_t> 16) + 31) // 32 * 32 + 16


cdef int64_t depth_of_chunk(const Chunks *chunks, int64_t chunk, int64_t *length) noexcept nogil:
    cdef int64_t skipped = chunk % chunks.pieces * chunks.piece
    cdef int64_t start = chunk // chunks.pieces * chunks.run + skipped
    length[0] = min(min(chunks.piece, chunks.run - skipped), chunks.depth - start)
    return start


cdef int tile_width(Py_ssize_t itemsize) noexcept nogil:
    return cdrop_active.tile_columns_f32 if itemsize == 4 else cdrop_active.tile_columns_f64


cdef int64_t whole_tiles(int64_t columns, Py_ssize_t itemsize) noexcept nogil:
    cdef int64_t width = tile_width(itemsize)
    return (columns + width - 1) // width * width


cdef void lines_of(const cdrop_patches *p, int64_t first, int64_t n, int64_t depth0, int64_t depth,
                   int64_t room, real *staged, const real **lines) noexcept nogil:
    if real is float:
        cdrop_active.lines_f32(p, first, n, depth0, depth, room, staged, lines)
    else:
        cdrop_active.lines_f64(p, first, n, depth0, depth, room, staged, lines)


ctypedef struct Tall:
    # c (rows, groups * n) = lines of patches @ columns of b.
    cdrop_patches patches
    Chunks chunks
    int64_t rows, groups, n
    int64_t row_step            # rows of a task


cdef void tall_task(const Tall *tall, int64_t task, const real *b, real *c, int64_t c_stride,
                    real *staged, const real **lines, const Epilogue *epilogue) noexcept nogil:
    """Some rows of c."""
    cdef int64_t first = task * tall.row_step, m = min(tall.row_step, tall.rows - first)
    cdef int64_t n = tall.n, group, chunk, depth0, depth, i
    cdef cdrop_patches patches = tall.patches
    cdef real *to
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    for group in range(tall.groups):
        patches.first_channel = group * patches.taken
        to = c + first * c_stride + group * n
        for chunk in range(tall.chunks.count):
            depth0 = depth_of_chunk(&tall.chunks, chunk, &depth)
            lines_of(&patches, first, m, depth0, depth, tall.chunks.room, staged, lines)
            for i in range(m, LINE_ROWS):
                lines[i] = lines[0]
            if real is float:
                cdrop_active.block_along_f32(m, n, depth, lines, b, to, c_stride, chunk > 0)
            else:
                cdrop_active.block_along_f64(m, n, depth, lines, b, to, c_stride, chunk > 0)
            b += whole_tiles(n, sizeof(real)) * depth
        epilogue_block(c, c_stride, first, group * n, m, n, epilogue)
    cdrop_restore_denormals(control)


cdef void pack_chunk(const Tall *tall, const cdrop_factor *b, int64_t task,
                     real *packed) noexcept nogil:
    """One chunk of one group of b."""
    cdef int64_t group = task // tall.chunks.count, chunk = task % tall.chunks.count, depth, depth0
    cdef unsigned control = cdrop_flush_denormals()
    depth0 = depth_of_chunk(&tall.chunks, chunk, &depth)
    pack(b, group * tall.n, tall.n, depth0, depth, tile_width(sizeof(real)),
         packed + whole_tiles(tall.n, sizeof(real)) * (group * tall.chunks.depth + depth0))
    cdrop_restore_denormals(control)


cdef int multiply_tall(Tall *tall, const cdrop_factor *b, real *c, int64_t c_stride,
                       const Epilogue *epilogue) except -1 nogil:
    cdef double work = 2.0 * tall.rows * tall.n * tall.groups * tall.chunks.depth
    cdef int team = cdrop_team_for(work / (80.0 if real is float else 40.0) / BARRIER_COST)
    cdef int64_t packed_room = tall.groups * whole_tiles(tall.n, sizeof(real)) * tall.chunks.depth
    cdef int64_t line_room = LINE_ROWS * tall.chunks.room + 64, task
    cdef real *packed
    cdef real *rooms
    cdef const real **lines
    # Fewer rows a task where there are few, so that all threads are busy to the end.
    tall.row_step = min(<int64_t> LINE_ROWS,
                        (tall.rows + 4 * team - 1) // (4 * team) // LEAST_ROWS * LEAST_ROWS
                        + LEAST_ROWS)
    packed_room = (packed_room + 63) // 64 * 64
    packed = <real *> cdrop_scratch_take(
        <size_t> (packed_room + team * line_room) * sizeof(real)
        + <size_t> (team * LINE_ROWS) * sizeof(void *))
    if packed == NULL:
        with gil:
            raise MemoryError("no memory for packing a factor of a tall product")
    rooms = packed + packed_room
    lines = <const real **> (rooms + team * line_room)
    for task in prange(tall.groups * tall.chunks.count, num_threads=team, schedule="static",
                       use_threads_if=team > 1):
        pack_chunk(tall, b, task, packed)
    for task in prange((tall.rows + tall.row_step - 1) // tall.row_step, num_threads=team,
                       schedule="dynamic", use_threads_if=team > 1):
        tall_task(tall, task, packed, c, c_stride, rooms + threadid() * line_room,
                  lines + threadid() * LINE_ROWS, epilogue)
    cdrop_scratch_give(packed)
    return 0


cdef bint is_tall(const cdrop_factor *a, int64_t m, int64_t n, int64_t depth,
                  Py_ssize_t itemsize) noexcept nogil:
    """Whether a plain product is better off with all of b packed once and a not at all.

    Its sums are the same, so that this is no matter of results.
    """
    return (m >= 48 and m >= 2 * n and n * depth * itemsize <= PACKED_BYTES
            and a.depth_stride == 1 and a.panel_stride >= depth and a.panel_index == NULL
            and a.depth_index == NULL and a.bits == NULL and a.scale == 1.0)


cdef int multiply_plain_tall(const cdrop_factor *a, const cdrop_factor *b, real *c,
                             int64_t c_stride, int64_t m, int64_t n, int64_t depth,
                             const Epilogue *epilogue) except -1 nogil:
    """Rows of a as patches of one pixel each."""
    cdef Tall tall
    memset(&tall, 0, sizeof(tall))
    tall.rows, tall.groups, tall.n = m, 1, n
    tall.patches.data = a.data
    tall.patches.channels, tall.patches.taken = a.panel_stride, depth
    tall.patches.height = tall.patches.width = 1
    tall.patches.out_height = tall.patches.out_width = 1
    tall.patches.kernel_height = tall.patches.kernel_width = 1
    tall.patches.stride_height = tall.patches.stride_width = 1
    tall.patches.dilation_height = tall.patches.dilation_width = 1
    tall.chunks.depth = tall.chunks.run = depth
    tall.chunks.piece = DEPTH_BLOCK
    tall.chunks.pieces = tall.chunks.count = (depth + DEPTH_BLOCK - 1) // DEPTH_BLOCK
    tall.chunks.room = DEPTH_BLOCK + 16
    return multiply_tall(&tall, b, c, c_stride, epilogue)
