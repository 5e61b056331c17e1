# Convolutions: products of the patches of images with a kernel, both ways.
#
# Such a product is tall: thousands of positions, tens of maps. The kernel is packed once; then each
# thread takes rows of the result and reads their patches where they lie in the image, or puts them
# together right before the tiles that read them (generic/patches.inc.h). The gradient of the kernel
# is short and deep: the positions are cut into parts that depend on the shape alone, and the sums
# of the parts are added in order. So no result depends on the team. Where groups are small,
# planes.pxi takes the place of both.

cdef enum:
    POSITION_BLOCK = 256        # positions that the gradient of a kernel sums at a time


cdef class Patches:
    """Images (batch, height, width, channels) as a matrix: positions x numbers of a patch.

    Parameters
    ----------
    images : contiguous float32 or float64
    out : (height, width) of the positions
    kernel, stride, dilation, pad_before : (along the height, along the width)
    groups : int
        The channels are cut into that many slices, each with a matrix of its own.
    """

    cdef cdrop_patches p
    cdef Buffer images
    cdef int dtype
    cdef readonly int64_t positions, depth, groups
    cdef readonly Py_ssize_t itemsize

    def __init__(self, images, tuple out, tuple kernel, tuple stride, tuple dilation,
                 tuple pad_before, int64_t groups=1):
        cdef Buffer x = array_of("images", images, REAL, -1, False, 4)
        self.images, self.dtype, self.itemsize, self.groups = x, x.dtype, x.view.itemsize, groups
        self.p.data = x.view.buf
        self.p.height, self.p.width, self.p.channels = (
            x.view.shape[1], x.view.shape[2], x.view.shape[3])
        self.p.out_height, self.p.out_width = out
        self.p.kernel_height, self.p.kernel_width = kernel
        self.p.stride_height, self.p.stride_width = stride
        self.p.dilation_height, self.p.dilation_width = dilation
        self.p.pad_before_height, self.p.pad_before_width = pad_before
        if groups < 1 or self.p.channels % groups:
            raise ValueError(f"{self.p.channels} channels cannot be cut into {groups} groups")
        if min(out) < 0 or min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
            raise ValueError("out, kernel, stride and dilation must be positive")
        self.p.first_channel, self.p.taken = 0, self.p.channels // groups
        self.positions = x.view.shape[0] * self.p.out_height * self.p.out_width
        if x.view.shape[3] < 1:
            raise ValueError("images need a channel")
        self.depth = self.p.kernel_height * self.p.kernel_width * self.p.taken


def convolution(c, Patches a, w, bias=None, bint relu=False, bits=None, double scale=1.0):
    """c__mn = act(patches__mk @ w__kn + bias__n), then dropped by bits and scaled.

    All contiguous; w is (patch, groups * maps of a group), bits the packed mask of c or None.
    """
    cdef Buffer kernel = array_of("w", w, a.dtype)
    cdef int64_t columns = kernel.size() // max(a.depth, <int64_t> 1), n = columns // a.groups
    cdef Buffer target = array_of("c", c, a.dtype, a.positions * columns, True)
    cdef Buffer bias_buffer = optional("bias", bias, a.dtype, columns)
    cdef Buffer packed = optional("bits", bits, U8, (a.positions * columns + 7) // 8)
    cdef Epilogue epilogue = epilogue_of(bias_buffer, relu, packed, columns, scale)
    cdef cdrop_factor f
    cdef double work = 2.0 * a.positions * a.depth * columns
    cdef Tall tall
    cdef Planes planes
    if kernel.size() != a.depth * columns or columns % a.groups:
        raise ValueError(f"{kernel.size()} weights are no kernel for patches of {a.depth} numbers "
                         f"in {a.groups} groups")
    if a.positions == 0 or columns == 0:
        return
    f = plain_factor(kernel.view.buf, columns)
    if cut_planes(&a.p, a.images.view.shape[0], a.groups, n, a.itemsize, &planes):
        if a.dtype == F32:
            with nogil:
                multiply_planes[float](&planes, work, &f, <float *> target.view.buf, &epilogue)
        else:
            with nogil:
                multiply_planes[double](&planes, work, &f, <double *> target.view.buf, &epilogue)
        return
    tall.patches, tall.rows, tall.groups, tall.n = a.p, a.positions, a.groups, n
    cut_chunks(&a.p, &tall.chunks)
    if a.dtype == F32:
        with nogil:
            multiply_tall[float](&tall, &f, <float *> target.view.buf, columns, &epilogue)
    else:
        with nogil:
            multiply_tall[double](&tall, &f, <double *> target.view.buf, columns, &epilogue)


# ---- the gradient of the kernel ----

ctypedef struct Parts:
    int64_t positions, parts    # of the positions, each with sums of its own
    int64_t cuts                # of the numbers of a patch
    int64_t n, groups
    int64_t dz_room, line_room


cdef void correlate_task(cdrop_patches patches, const Chunks *chunks, const cdrop_factor *dz,
                         const Parts *parts, int64_t task, real *sums, real *room,
                         const real **lines) noexcept nogil:
    """A part of the positions and of the patches: sums (patch, groups * n)."""
    cdef int64_t part = task // parts.cuts, cut = task % parts.cuts
    cdef int64_t begin = chunk_start(parts.positions, <int> part, <int> parts.parts,
                                     POSITION_BLOCK)
    cdef int64_t end = chunk_start(parts.positions, <int> part + 1, <int> parts.parts,
                                   POSITION_BLOCK)
    cdef int64_t first = chunk_start(chunks.count, <int> cut, <int> parts.cuts, 1)
    cdef int64_t last = chunk_start(chunks.count, <int> cut + 1, <int> parts.cuts, 1)
    cdef int64_t n = parts.n, columns = n * parts.groups, position = begin
    cdef int64_t chunk, group, here, depth0, depth
    cdef real *to
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    while position < end:
        here = min(<int64_t> POSITION_BLOCK, end - position)
        for group in range(parts.groups):
            patches.first_channel = group * patches.taken
            pack(dz, group * n, n, position, here, tile_width(sizeof(real)), room)
            for chunk in range(first, last):
                depth0 = depth_of_chunk(chunks, chunk, &depth)
                lines_of(&patches, position, here, depth0, depth, chunks.room,
                         room + parts.dz_room, lines)
                to = sums + (part * chunks.depth + depth0) * columns + group * n
                if real is float:
                    cdrop_active.block_across_f32(depth, n, here, lines, room, to, columns,
                                                  position > begin)
                else:
                    cdrop_active.block_across_f64(depth, n, here, lines, room, to, columns,
                                                  position > begin)
        position += here
    cdrop_restore_denormals(control)


cdef int correlate(const cdrop_patches *patches, int64_t positions, int64_t groups,
                   const cdrop_factor *dz, int64_t n, real *dw) except -1 nogil:
    cdef double work = 2.0 * positions * n * groups / (80.0 if real is float else 40.0)
    cdef int64_t size, sum_room, room, task
    cdef int team, part
    cdef Chunks chunks
    cdef Parts parts
    cdef real *sums
    cdef real *rooms
    cdef real *to = dw
    cdef const real **lines
    cut_chunks(patches, &chunks)
    size = chunks.depth * n * groups
    if positions == 0:
        memset(dw, 0, size * sizeof(real))
        return 0
    team = cdrop_team_for(work * chunks.depth / BARRIER_COST)
    parts.positions, parts.n, parts.groups = positions, n, groups
    parts.parts = max(min(min(<int64_t> PART_BYTES // (size * <int64_t> sizeof(real)),
                              (positions + POSITION_BLOCK - 1) // POSITION_BLOCK),
                          <int64_t> TASKS), <int64_t> 1)
    parts.cuts = min(chunks.count, (TASKS + parts.parts - 1) // parts.parts)
    parts.dz_room = whole_tiles(n, sizeof(real)) * POSITION_BLOCK + 64
    room = parts.dz_room + POSITION_BLOCK * chunks.room + 64
    sum_room = (size * parts.parts + 63) // 64 * 64 if parts.parts > 1 else 0
    sums = <real *> cdrop_scratch_take(
        <size_t> (sum_room + team * room) * sizeof(real)
        + <size_t> (team * POSITION_BLOCK) * sizeof(void *))
    if sums == NULL:
        with gil:
            raise MemoryError("no memory for the gradient of a kernel")
    rooms = sums + sum_room
    lines = <const real **> (rooms + team * room)
    if parts.parts > 1:
        to = sums
    for task in prange(parts.parts * parts.cuts, num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        correlate_task(patches[0], &chunks, dz, &parts, task, to, rooms + threadid() * room,
                       lines + threadid() * POSITION_BLOCK)
    if parts.parts > 1:
        for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            add_parts(sums, parts.parts, size, dw, part, team)
    cdrop_scratch_give(sums)
    return 0


def kernel_gradient(dw, Patches a, dz):
    """dw__kn = patches__mk^T @ dz__mn, all contiguous."""
    cdef Buffer target = array_of("dw", dw, a.dtype, -1, True)
    cdef int64_t columns = target.size() // max(a.depth, <int64_t> 1), n = columns // a.groups
    cdef Buffer back = array_of("dz", dz, a.dtype, a.positions * columns)
    cdef double work = 2.0 * a.positions * a.depth * columns
    cdef cdrop_factor f
    cdef Planes planes
    if target.size() != a.depth * columns or columns % a.groups:
        raise ValueError(f"{target.size()} weights are no kernel for patches of {a.depth} numbers "
                         f"in {a.groups} groups")
    if target.size() == 0:
        return
    if cut_planes(&a.p, a.images.view.shape[0], a.groups, n, a.itemsize, &planes):
        if a.dtype == F32:
            with nogil:
                correlate_planes[float](&planes, work, <const float *> back.view.buf,
                                        <float *> target.view.buf)
        else:
            with nogil:
                correlate_planes[double](&planes, work, <const double *> back.view.buf,
                                         <double *> target.view.buf)
        return
    f = plain_factor(back.view.buf, columns)
    if a.dtype == F32:
        with nogil:
            correlate[float](&a.p, a.positions, a.groups, &f, n, <float *> target.view.buf)
    else:
        with nogil:
            correlate[double](&a.p, a.positions, a.groups, &f, n, <double *> target.view.buf)
