# Pooling: rows of the output in parallel; images in the backward pass, since windows may overlap.

cdef double POOL_NS = 0.4       # of an element of the input


cdef class Windows:
    """Windows over images (batch, height, width, channels).

    Parameters
    ----------
    images : tuple of 4 int
        Their shape.
    out : (height, width) of the positions
    kernel, stride, pad_before : (along the height, along the width)
    count_padding : bool
        Whether an average is over all of a window, padding among it.
    lengths : int64 (batch,) or None
        How much of the width of each image there is.
    """

    cdef cdrop_pool p
    cdef Buffer lengths
    cdef readonly int64_t batch

    def __init__(self, tuple images, tuple out, tuple kernel, tuple stride, tuple pad_before,
                 bint count_padding=False, lengths=None):
        cdef const int64_t *length
        cdef int64_t i
        self.batch, self.p.height, self.p.width, self.p.channels = images
        self.p.out_height, self.p.out_width = out
        self.p.kernel_height, self.p.kernel_width = kernel
        self.p.stride_height, self.p.stride_width = stride
        self.p.pad_before_height, self.p.pad_before_width = pad_before
        self.p.count_padding = count_padding
        self.p.lengths = NULL
        if min(images) < 0 or min(out) < 0 or min(kernel) < 1 or min(stride) < 1:
            raise ValueError("images and out must not be negative, kernel and stride positive")
        if self.p.kernel_height * self.p.kernel_width >= <int64_t> 1 << 31:
            raise ValueError("a window has fewer than 2**31 elements")
        if lengths is not None:
            self.lengths = array_of("lengths", lengths, I64, self.batch)
            length = <const int64_t *> self.lengths.view.buf
            for i in range(self.batch):
                if length[i] < 0 or length[i] > self.p.width:
                    raise ValueError(f"length {length[i]} is outside [0, {self.p.width}]")
            self.p.lengths = length

    cdef int64_t size_in(self):
        return self.batch * self.p.height * self.p.width * self.p.channels

    cdef int64_t size_out(self):
        return self.batch * self.p.out_height * self.p.out_width * self.p.channels


cdef void pool_task(const cdrop_pool *p, int64_t row0, int64_t rows, const real *x, real *y,
                    int32_t *argmax) noexcept nogil:
    if row0 == 0:
        cdrop_note_team()
    if real is float:
        cdrop_active.pool_f32(p, row0, rows, x, y, argmax)
    else:
        cdrop_active.pool_f64(p, row0, rows, x, y, argmax)


cdef void pool_all(const cdrop_pool *p, int64_t batch, double work, const real *x, real *y,
                   int32_t *argmax) noexcept nogil:
    cdef int64_t rows = batch * p.out_height, together = max(p.out_height, <int64_t> 1), task
    cdef int team = cdrop_team_for(work)
    if batch < 4 * team:
        together = 1
    for task in prange((rows + together - 1) // together, num_threads=team, schedule="dynamic",
                       use_threads_if=team > 1):
        pool_task(p, task * together, min(together, rows - task * together), x, y, argmax)


cdef void pool_back_task(const cdrop_pool *p, int64_t image, const real *dy, const int32_t *argmax,
                         real *dx) noexcept nogil:
    if image == 0:
        cdrop_note_team()
    if real is float:
        cdrop_active.pool_back_f32(p, image, dy, argmax, dx)
    else:
        cdrop_active.pool_back_f64(p, image, dy, argmax, dx)


cdef void pool_back_all(const cdrop_pool *p, int64_t batch, double work, const real *dy,
                        const int32_t *argmax, real *dx) noexcept nogil:
    cdef int64_t image
    cdef int team = cdrop_team_for(work)
    for image in prange(batch, num_threads=team, schedule="dynamic", use_threads_if=team > 1):
        pool_back_task(p, image, dy, argmax, dx)


def pool(y, x, Windows windows, argmax=None):
    """y = maxima of the windows of x and their argmax (int32, like y), or without it averages."""
    cdef Buffer source = array_of("x", x, REAL, windows.size_in())
    cdef Buffer target = array_of("y", y, source.dtype, windows.size_out(), True)
    cdef Buffer argmaxes = optional("argmax", argmax, I32, windows.size_out(), True)
    cdef int32_t *at = <int32_t *> pointer_of(argmaxes)
    cdef double work = POOL_NS * windows.size_in()
    if windows.size_out() == 0:
        return
    if source.dtype == F32:
        with nogil:
            pool_all[float](&windows.p, windows.batch, work, <const float *> source.view.buf,
                            <float *> target.view.buf, at)
    else:
        with nogil:
            pool_all[double](&windows.p, windows.batch, work, <const double *> source.view.buf,
                             <double *> target.view.buf, at)


def pool_back(dx, dy, Windows windows, argmax=None):
    """dx, with the argmax that `pool` found, or without it of averages."""
    cdef Buffer source = array_of("dy", dy, REAL, windows.size_out())
    cdef Buffer target = array_of("dx", dx, source.dtype, windows.size_in(), True)
    cdef Buffer argmaxes = optional("argmax", argmax, I32, windows.size_out())
    cdef const int32_t *at = <const int32_t *> pointer_of(argmaxes)
    cdef double work = POOL_NS * windows.size_in()
    if windows.size_in() == 0:
        return
    if source.dtype == F32:
        with nogil:
            pool_back_all[float](&windows.p, windows.batch, work, <const float *> source.view.buf,
                                 at, <float *> target.view.buf)
    else:
        with nogil:
            pool_back_all[double](&windows.p, windows.batch, work,
                                  <const double *> source.view.buf, at,
                                  <double *> target.view.buf)
