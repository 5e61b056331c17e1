# Convolutions whose groups are small, above all depthwise ones. A product would fill a register
# tile with the few maps of one group; here a vector has the maps of several groups side by side
# (generic/planes.inc.h). A task is a block of positions of an image, for some of the maps; of the
# gradient of the kernel, a part of all blocks, for a vector of the maps. Blocks and parts depend on
# the shape alone, so that no result depends on the team.

cdef enum:
    PLANE_BYTES = 32 << 10      # of a plane, about: it stays in L1
    LEAST_WIDE = 8              # positions along the width of a block, where there are as many
    BLOCK_POSITIONS = 1024      # of a block, about
    PLANE_COLUMNS = 64          # of a task: whole vectors on every ISA
    PLANE_MAPS = 12             # of a group, at most: planes of as many channels leave L1


ctypedef struct Planes:
    cdrop_plane block               # without its place
    int64_t row_step, wide_step     # positions of a block
    int64_t down, along             # blocks of an image
    int64_t across, vectors         # tasks and vectors for all maps
    int64_t units, lanes            # blocks of all images; numbers of a vector
    int64_t depth, room             # numbers of a patch, and of what a thread needs for a block


cdef inline double pixels_of(const cdrop_patches *p, int64_t wide) noexcept nogil:
    """Under the kernel of a row of positions."""
    cdef double height = (p.kernel_height - 1) * p.dilation_height + 1
    return height * ((wide - 1) * p.stride_width + (p.kernel_width - 1) * p.dilation_width + 1)


cdef bint cut_planes(const cdrop_patches *p, int64_t images, int64_t groups, int64_t maps,
                     Py_ssize_t itemsize, Planes *s) noexcept nogil:
    """Whether planes are faster than the product, and if so the blocks.

    They are where groups have few maps, so that tiles of one group each have at least twice as many
    columns as vectors of all; unless stride or dilation leave out most of a plane, or it would be
    large for a few positions.
    """
    cdef int64_t columns = groups * maps, wide = p.out_width, rows
    cdef int64_t lanes = cdrop_active.lanes_f32 if itemsize == 4 else cdrop_active.lanes_f64
    cdef int64_t taps = p.kernel_height * p.kernel_width
    cdef double most = PLANE_BYTES / <double> (p.taken * lanes * itemsize)
    if (maps > PLANE_MAPS or p.out_height == 0 or wide == 0
            or 2 * rounded(columns, lanes) > groups * whole_tiles(maps, itemsize)):
        return False
    while wide > LEAST_WIDE and pixels_of(p, wide) > most:
        wide = (wide + 1) // 2
    if pixels_of(p, wide) > min(32 * most, 4.0 * taps * wide):
        return False
    rows = min(max(BLOCK_POSITIONS // wide, <int64_t> 1), p.out_height)
    s.down, s.along = (p.out_height + rows - 1) // rows, (p.out_width + wide - 1) // wide
    s.row_step, s.wide_step = (p.out_height + s.down - 1) // s.down, wide
    s.across = (columns + PLANE_COLUMNS - 1) // PLANE_COLUMNS
    s.vectors, s.lanes = (columns + lanes - 1) // lanes, lanes
    s.units = images * s.down * s.along
    s.block.patches, s.block.maps, s.block.columns = p[0], maps, columns
    s.block.slots = (p.kernel_height - 1) * p.dilation_height + 1
    s.block.width = (wide - 1) * p.stride_width + (p.kernel_width - 1) * p.dilation_width + 1
    s.depth = taps * p.taken
    s.room = rounded(
        (s.depth + s.block.slots * (s.block.width * p.taken + 1) + wide) * lanes, 64)
    return True


cdef void put_block(cdrop_plane *b, const Planes *s, int64_t unit) noexcept nogil:
    """Where a block is."""
    b.image = unit // (s.down * s.along)
    b.row = unit // s.along % s.down * s.row_step
    b.left = unit % s.along * s.wide_step
    b.rows = min(s.row_step, b.patches.out_height - b.row)
    b.wide = min(s.wide_step, b.patches.out_width - b.left)


cdef void plane_task(const Planes *s, int64_t task, const cdrop_factor *w, real *c, real *packed,
                     int64_t *offset, const Epilogue *epilogue) noexcept nogil:
    """Some columns of a block of c."""
    cdef cdrop_plane b = s.block
    cdef int64_t column = task % s.across * PLANE_COLUMNS, row, first
    cdef int64_t n = min(<int64_t> PLANE_COLUMNS, b.columns - column)
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    put_block(&b, s, task // s.across)
    b.column = column
    while b.column < column + n:
        pack(w, b.column, min(s.lanes, b.columns - b.column), 0, s.depth, <int> s.lanes, packed)
        if real is float:
            cdrop_active.plane_product_f32(&b, packed, packed + s.depth * s.lanes, offset, c)
        else:
            cdrop_active.plane_product_f64(&b, packed, packed + s.depth * s.lanes, offset, c)
        b.column += s.lanes
    for row in range(b.row, b.row + b.rows):
        first = (b.image * b.patches.out_height + row) * b.patches.out_width + b.left
        epilogue_block(c, b.columns, first, column, b.wide, n, epilogue)
    cdrop_restore_denormals(control)


cdef int multiply_planes(const Planes *s, double work, const cdrop_factor *w, real *c,
                         const Epilogue *epilogue) except -1 nogil:
    cdef int team = cdrop_team_for(work / (80.0 if real is float else 40.0) / BARRIER_COST)
    cdef int64_t task
    cdef int64_t *offsets
    cdef real *rooms = <real *> cdrop_scratch_take(
        <size_t> team * (s.room * sizeof(real) + s.depth * sizeof(int64_t)))
    if rooms == NULL:
        with gil:
            raise MemoryError("no memory for the planes of a convolution")
    offsets = <int64_t *> (rooms + team * s.room)
    for task in prange(s.units * s.across, num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        plane_task(s, task, w, c, rooms + threadid() * s.room, offsets + threadid() * s.depth,
                   epilogue)
    cdrop_scratch_give(rooms)
    return 0


cdef void plane_gradient_task(const Planes *s, int64_t task, int64_t parts, const real *dz,
                              real *dw, real *sums, int64_t *offset) noexcept nogil:
    """A part of the blocks, for a vector of maps: dw (parts, patch, columns)."""
    cdef cdrop_plane b = s.block
    cdef int part = <int> (task // s.vectors)
    cdef int64_t d, unit
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    memset(sums, 0, s.depth * s.lanes * sizeof(real))
    b.column = task % s.vectors * s.lanes
    for unit in range(chunk_start(s.units, part, <int> parts, 1),
                      chunk_start(s.units, part + 1, <int> parts, 1)):
        put_block(&b, s, unit)
        if real is float:
            cdrop_active.plane_gradient_f32(&b, dz, sums + s.depth * s.lanes, offset, sums)
        else:
            cdrop_active.plane_gradient_f64(&b, dz, sums + s.depth * s.lanes, offset, sums)
    for d in range(s.depth):
        memcpy(dw + (part * s.depth + d) * b.columns + b.column, sums + d * s.lanes,
               min(s.lanes, b.columns - b.column) * sizeof(real))
    cdrop_restore_denormals(control)


cdef int correlate_planes(const Planes *s, double work, const real *dz,
                          real *dw) except -1 nogil:
    cdef int team = cdrop_team_for(work / (80.0 if real is float else 40.0) / BARRIER_COST), part
    cdef int64_t size = s.depth * s.block.columns, task
    cdef int64_t parts = max(min(min(PART_BYTES // (size * <int64_t> sizeof(real)), s.units),
                                 (TASKS + s.vectors - 1) // s.vectors), <int64_t> 1)
    cdef int64_t sum_room = rounded(size * parts, 64) if parts > 1 else 0
    cdef int64_t *offsets
    cdef real *rooms
    cdef real *sums = <real *> cdrop_scratch_take(
        <size_t> sum_room * sizeof(real)
        + <size_t> team * (s.room * sizeof(real) + s.depth * sizeof(int64_t)))
    if sums == NULL:
        with gil:
            raise MemoryError("no memory for the gradient of a kernel")
    rooms = sums + sum_room
    offsets = <int64_t *> (rooms + team * s.room)
    for task in prange(parts * s.vectors, num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        plane_gradient_task(s, task, parts, dz, sums if parts > 1 else dw,
                            rooms + threadid() * s.room, offsets + threadid() * s.depth)
    if parts > 1:
        for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            add_parts(sums, parts, size, dw, part, team)
    cdrop_scratch_give(sums)
    return 0
