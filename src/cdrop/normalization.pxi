# Batch and layer normalisation of contiguous matrices (rows, n). Sums over the rows are made in
# blocks that depend on the shape alone and are added in order: no result depends on the team.

cdef double MOMENTS_NS = 0.5, MAP_NS = 0.3, ROWS_NS = 1.0


cdef void *room_for(size_t bytes) except NULL:
    cdef void *room = cdrop_scratch_take(bytes)
    if room == NULL:
        raise MemoryError("no memory for the sums of a normalisation")
    return room


cdef Buffer matrix(str name, array, Buffer like=None, bint writable=False):
    """A contiguous matrix, of the shape and dtype of another one."""
    cdef Buffer b = array_of(name, array, REAL if like is None else like.dtype, -1, writable, 2)
    if like is not None and (b.view.shape[0] != like.view.shape[0]
                             or b.view.shape[1] != like.view.shape[1]):
        raise ValueError(f"{name} must have the shape of x")
    return b


# ---- batch ----

cdef void moments_block(const real *x, int64_t rows, int64_t n, int64_t block, double *mean,
                        double *square) noexcept nogil:
    cdef int64_t first = block * block_rows(rows)
    cdef size_t m = <size_t> (min(rows, first + block_rows(rows)) - first)
    if block == 0:
        cdrop_note_team()
    if real is float:
        cdrop_active.column_moments_f32(m, n, x + first * n, mean, square)
    else:
        cdrop_active.column_moments_f64(m, n, x + first * n, mean, square)


cdef void moments_all(const real *x, int64_t rows, int64_t n, double *sums, double *mean,
                      double *variance) noexcept nogil:
    """Chan, Golub and LeVeque 1983: two groups of numbers are one, with the square of the
    difference of their means added to the sum of squares."""
    cdef int64_t blocks = (rows + block_rows(rows) - 1) // block_rows(rows), b, c, before, here
    cdef int team = cdrop_team_for(MOMENTS_NS * rows * n)
    cdef double *of_block
    cdef double part, both, difference
    for b in prange(blocks, num_threads=team, schedule="static", use_threads_if=team > 1):
        moments_block(x, rows, n, b, sums + 2 * b * n, sums + (2 * b + 1) * n)
    for c in range(n):
        mean[c] = sums[c]
        variance[c] = sums[n + c]
    for b in range(1, blocks):
        of_block = sums + 2 * b * n
        before = b * block_rows(rows)
        here = min(rows, before + block_rows(rows)) - before
        part = <double> here / <double> (before + here)
        both = part * <double> before
        for c in range(n):
            difference = of_block[c] - mean[c]
            mean[c] += difference * part
            variance[c] += of_block[n + c] + difference * difference * both
    for c in range(n):
        variance[c] /= <double> rows


def batch_moments(x, mean, variance):
    """Of the columns of x, in float64; the variance is the mean square (biased)."""
    cdef Buffer source = matrix("x", x)
    cdef int64_t rows = source.view.shape[0], n = source.view.shape[1]
    cdef Buffer means = array_of("mean", mean, F64, n, True)
    cdef Buffer variances = array_of("variance", variance, F64, n, True)
    cdef void *room
    if rows * n == 0:
        raise ValueError(f"there are no moments of {rows} rows of {n} columns")
    room = room_for((BLOCKS + 1) * 2 * n * sizeof(double))
    if source.dtype == F32:
        with nogil:
            moments_all[float](<const float *> source.view.buf, rows, n, <double *> room,
                               <double *> means.view.buf, <double *> variances.view.buf)
    else:
        with nogil:
            moments_all[double](<const double *> source.view.buf, rows, n, <double *> room,
                                <double *> means.view.buf, <double *> variances.view.buf)
    cdrop_scratch_give(room)


cdef void map_part(const real *x, const real *dy, real *out, int64_t rows, int64_t n,
                   const real *maps, int part, int parts) noexcept nogil:
    """maps: centre, factor, offset and, with dy, slope, of n numbers each."""
    cdef int64_t first = chunk_start(rows, part, parts, 1)
    cdef size_t m = <size_t> (chunk_start(rows, part + 1, parts, 1) - first)
    cdef const cdrop_kernels *k = cdrop_active
    if part == 0:
        cdrop_note_team()
    x, out = x + first * n, out + first * n
    if real is float:
        if dy == NULL:
            k.map_columns_f32(m, n, maps, maps + n, maps + 2 * n, x, out)
        else:
            k.map_columns_back_f32(m, n, maps, maps + n, maps + 3 * n, maps + 2 * n, x,
                                   dy + first * n, out)
    else:
        if dy == NULL:
            k.map_columns_f64(m, n, maps, maps + n, maps + 2 * n, x, out)
        else:
            k.map_columns_back_f64(m, n, maps, maps + n, maps + 3 * n, maps + 2 * n, x,
                                   dy + first * n, out)


cdef void map_all(const real *x, const real *dy, real *out, int64_t rows, int64_t n,
                  const real *maps) noexcept nogil:
    cdef int team = cdrop_team_for(MAP_NS * rows * n)
    cdef int part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        map_part(x, dy, out, rows, n, maps, part, team)


cdef void normalize_all(const real *x, real *y, int64_t rows, int64_t n, const double *mean,
                        const double *variance, double epsilon, const real *gamma,
                        const real *beta, real *maps) noexcept nogil:
    cdef int64_t c
    cdef double factor
    for c in range(n):
        factor = gamma[c] / sqrt(variance[c] + epsilon)
        maps[c] = <real> mean[c]
        maps[n + c] = <real> factor
        maps[2 * n + c] = <real> (beta[c] + (maps[c] - mean[c]) * factor)
    map_all(x, <const real *> NULL, y, rows, n, <const real *> maps)


cdef bint any_is_wide(int64_t n, const double *variance, double epsilon) noexcept nogil:
    """Whether differences within a column of float32 may overflow."""
    cdef int64_t c
    for c in range(n):
        if variance[c] + epsilon > 1.0 / (CDROP_WIDE_SCALE * CDROP_WIDE_SCALE):
            return True
    return False


cdef void normalize_wide(const float *x, float *y, int64_t rows, int64_t n, const double *mean,
                         const double *variance, double epsilon, const float *gamma,
                         const float *beta) noexcept nogil:
    """normalize_all in float64, for columns whose differences may overflow."""
    cdef int64_t r, c
    for c in range(n):
        for r in range(rows):
            y[r * n + c] = <float> ((x[r * n + c] - mean[c]) / sqrt(variance[c] + epsilon)
                                    * gamma[c] + beta[c])


cdef void sums_wide(const float *x, const float *dy, int64_t rows, int64_t n, const double *mean,
                    const double *variance, double epsilon, double *sums) noexcept nogil:
    """sums_all in float64, for columns whose differences may overflow."""
    cdef int64_t r, c
    cdef double scale, total, product
    for c in range(n):
        scale, total, product = 1.0 / sqrt(variance[c] + epsilon), 0.0, 0.0
        for r in range(rows):
            total += dy[r * n + c]
            product += dy[r * n + c] * ((x[r * n + c] - mean[c]) * scale)
        sums[c], sums[n + c] = total, product


cdef void normalize_wide_back(const float *x, const float *dy, float *dx, int64_t rows, int64_t n,
                              const double *mean, const double *variance, double epsilon,
                              const float *gamma, const double *sums,
                              double count) noexcept nogil:
    """normalize_all_back in float64, for columns whose differences may overflow."""
    cdef int64_t r, c
    cdef double scale, h
    for c in range(n):
        scale = 1.0 / sqrt(variance[c] + epsilon)
        for r in range(rows):
            h = (x[r * n + c] - mean[c]) * scale
            dx[r * n + c] = <float> (gamma[c] * scale * (dy[r * n + c] - sums[c] / count
                                                         - h * sums[n + c] / count))


def batch_normalize(x, y, mean, variance, double epsilon, gamma, beta):
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta by columns; moments in float64."""
    cdef Buffer source = matrix("x", x), target = matrix("y", y, source, True)
    cdef int64_t rows = source.view.shape[0], n = source.view.shape[1]
    cdef Py_ssize_t itemsize = source.view.itemsize
    cdef Buffer means = array_of("mean", mean, F64, n)
    cdef Buffer variances = array_of("variance", variance, F64, n)
    cdef Buffer factors = array_of("gamma", gamma, source.dtype, n)
    cdef Buffer offsets = array_of("beta", beta, source.dtype, n)
    cdef void *room
    if source.dtype == F32 and any_is_wide(n, <const double *> variances.view.buf, epsilon):
        with nogil:
            normalize_wide(<const float *> source.view.buf, <float *> target.view.buf, rows, n,
                           <const double *> means.view.buf, <const double *> variances.view.buf,
                           epsilon, <const float *> factors.view.buf,
                           <const float *> offsets.view.buf)
        return
    room = room_for((3 * n + 1) * itemsize)
    if source.dtype == F32:
        with nogil:
            normalize_all[float](<const float *> source.view.buf, <float *> target.view.buf, rows,
                                 n, <const double *> means.view.buf,
                                 <const double *> variances.view.buf, epsilon,
                                 <const float *> factors.view.buf,
                                 <const float *> offsets.view.buf, <float *> room)
    else:
        with nogil:
            normalize_all[double](<const double *> source.view.buf, <double *> target.view.buf,
                                  rows, n, <const double *> means.view.buf,
                                  <const double *> variances.view.buf, epsilon,
                                  <const double *> factors.view.buf,
                                  <const double *> offsets.view.buf, <double *> room)
    cdrop_scratch_give(room)


cdef void products_block(const real *x, const real *dy, int64_t rows, int64_t n,
                         const real *centre, int64_t block, double *sum,
                         double *product) noexcept nogil:
    cdef int64_t first = block * block_rows(rows)
    cdef size_t m = <size_t> (min(rows, first + block_rows(rows)) - first)
    if block == 0:
        cdrop_note_team()
    if real is float:
        cdrop_active.column_products_f32(m, n, centre, x + first * n, dy + first * n, sum, product)
    else:
        cdrop_active.column_products_f64(m, n, centre, x + first * n, dy + first * n, sum, product)


cdef void add_blocks(int64_t blocks, int64_t n, double *sums) noexcept nogil:
    """Blocks of n sums, added in order to the first."""
    cdef int64_t b, c
    for b in range(1, blocks):
        for c in range(n):
            sums[c] += sums[b * n + c]


cdef void sums_all(const real *x, const real *dy, int64_t rows, int64_t n, const double *mean,
                   const double *variance, double epsilon, double *sums, double *parts,
                   real *centre) noexcept nogil:
    cdef int64_t blocks = (rows + block_rows(rows) - 1) // block_rows(rows), b, c
    cdef int team = cdrop_team_for(MOMENTS_NS * rows * n)
    cdef double rest
    for c in range(n):
        centre[c] = <real> mean[c]
    for b in prange(blocks, num_threads=team, schedule="static", use_threads_if=team > 1):
        products_block(x, dy, rows, n, <const real *> centre, b, parts + 2 * b * n,
                       parts + (2 * b + 1) * n)
    add_blocks(blocks, 2 * n, parts)
    for c in range(n):
        rest = centre[c] - mean[c]  # what is lacking in x - centre
        sums[c] = parts[c]
        sums[n + c] = (parts[n + c] + rest * parts[c]) * (1.0 / sqrt(variance[c] + epsilon))


def batch_sums(x, dy, mean, variance, double epsilon, sums):
    """Sums over the rows, (2 n,) in float64: of dy, then of dy h, h = (x - mean) / deviation."""
    cdef Buffer source = matrix("x", x), back = matrix("dy", dy, source)
    cdef int64_t rows = source.view.shape[0], n = source.view.shape[1]
    cdef Buffer means = array_of("mean", mean, F64, n)
    cdef Buffer variances = array_of("variance", variance, F64, n)
    cdef Buffer target = array_of("sums", sums, F64, 2 * n, True)
    cdef size_t all_parts = (BLOCKS + 1) * 2 * n * sizeof(double)
    cdef char *room
    if rows == 0:
        raise ValueError("there is no gradient of a batch of no rows")
    if source.dtype == F32 and any_is_wide(n, <const double *> variances.view.buf, epsilon):
        with nogil:
            sums_wide(<const float *> source.view.buf, <const float *> back.view.buf, rows, n,
                      <const double *> means.view.buf, <const double *> variances.view.buf,
                      epsilon, <double *> target.view.buf)
        return
    room = <char *> room_for(all_parts + (n + 1) * source.view.itemsize)
    if source.dtype == F32:
        with nogil:
            sums_all[float](<const float *> source.view.buf, <const float *> back.view.buf, rows,
                            n, <const double *> means.view.buf,
                            <const double *> variances.view.buf, epsilon,
                            <double *> target.view.buf, <double *> room,
                            <float *> (room + all_parts))
    else:
        with nogil:
            sums_all[double](<const double *> source.view.buf, <const double *> back.view.buf,
                             rows, n, <const double *> means.view.buf,
                             <const double *> variances.view.buf, epsilon,
                             <double *> target.view.buf, <double *> room,
                             <double *> (room + all_parts))
    cdrop_scratch_give(room)


cdef void normalize_all_back(const real *x, const real *dy, real *dx, int64_t rows, int64_t n,
                             const double *mean, const double *variance, double epsilon,
                             const real *gamma, const double *sums, double count,
                             real *maps) noexcept nogil:
    cdef int64_t c
    cdef double scale, rest, slope
    for c in range(n):
        maps[c] = <real> mean[c]
        scale = 1.0 / sqrt(variance[c] + epsilon)
        rest = maps[c] - mean[c]
        slope = -scale * sums[n + c] / count
        maps[n + c] = <real> (gamma[c] * scale)
        maps[2 * n + c] = <real> (rest * slope - sums[c] / count)
        maps[3 * n + c] = <real> slope
    map_all(x, dy, dx, rows, n, <const real *> maps)


def batch_normalize_back(x, dy, dx, mean, variance, double epsilon, gamma, sums, double count):
    """dx = gamma scale (dy - sums[0] / count - h sums[1] / count), with h = (x - mean) scale.

    The moments and the sums are those of the whole batch, of `count` rows, of which x holds some.
    """
    cdef Buffer source = matrix("x", x), back = matrix("dy", dy, source)
    cdef Buffer target = matrix("dx", dx, source, True)
    cdef int64_t rows = source.view.shape[0], n = source.view.shape[1]
    cdef Buffer means = array_of("mean", mean, F64, n)
    cdef Buffer variances = array_of("variance", variance, F64, n)
    cdef Buffer factors = array_of("gamma", gamma, source.dtype, n)
    cdef Buffer both = array_of("sums", sums, F64, 2 * n)
    cdef void *room
    if not count >= rows:
        raise ValueError(f"count must be at least the {rows} rows of x, got {count}")
    if source.dtype == F32 and any_is_wide(n, <const double *> variances.view.buf, epsilon):
        with nogil:
            normalize_wide_back(<const float *> source.view.buf, <const float *> back.view.buf,
                                <float *> target.view.buf, rows, n,
                                <const double *> means.view.buf,
                                <const double *> variances.view.buf, epsilon,
                                <const float *> factors.view.buf,
                                <const double *> both.view.buf, count)
        return
    room = room_for((4 * n + 1) * source.view.itemsize)
    if source.dtype == F32:
        with nogil:
            normalize_all_back[float](
                <const float *> source.view.buf, <const float *> back.view.buf,
                <float *> target.view.buf, rows, n, <const double *> means.view.buf,
                <const double *> variances.view.buf, epsilon, <const float *> factors.view.buf,
                <const double *> both.view.buf, count, <float *> room)
    else:
        with nogil:
            normalize_all_back[double](
                <const double *> source.view.buf, <const double *> back.view.buf,
                <double *> target.view.buf, rows, n, <const double *> means.view.buf,
                <const double *> variances.view.buf, epsilon, <const double *> factors.view.buf,
                <const double *> both.view.buf, count, <double *> room)
    cdrop_scratch_give(room)


# ---- layer ----

cdef void rows_part(const real *x, real *y, int64_t rows, int64_t n, double epsilon,
                    const real *gamma, const real *beta, double *mean, double *scale, int part,
                    int parts) noexcept nogil:
    cdef int64_t first = chunk_start(rows, part, parts, 1)
    cdef size_t m = <size_t> (chunk_start(rows, part + 1, parts, 1) - first)
    if part == 0:
        cdrop_note_team()
    if real is float:
        cdrop_active.normalize_rows_f32(m, n, epsilon, gamma, beta, x + first * n, y + first * n,
                                        mean + first, scale + first)
    else:
        cdrop_active.normalize_rows_f64(m, n, epsilon, gamma, beta, x + first * n, y + first * n,
                                        mean + first, scale + first)


cdef void rows_all(const real *x, real *y, int64_t rows, int64_t n, double epsilon,
                   const real *gamma, const real *beta, double *mean,
                   double *scale) noexcept nogil:
    cdef int team = cdrop_team_for(ROWS_NS * rows * n)
    cdef int part
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        rows_part(x, y, rows, n, epsilon, gamma, beta, mean, scale, part, team)


def layer_normalize(x, y, mean, scale, double epsilon, gamma, beta):
    """y = (x - mean) scale gamma + beta by rows; mean and scale, of each row, in float64."""
    cdef Buffer source = matrix("x", x), target = matrix("y", y, source, True)
    cdef int64_t rows = source.view.shape[0], n = source.view.shape[1]
    cdef Py_ssize_t itemsize = source.view.itemsize
    cdef Buffer means = array_of("mean", mean, F64, rows, True)
    cdef Buffer scales = array_of("scale", scale, F64, rows, True)
    cdef Buffer factors = array_of("gamma", gamma, source.dtype, n)
    cdef Buffer offsets = array_of("beta", beta, source.dtype, n)
    if rows * n == 0:
        return
    if source.dtype == F32:
        with nogil:
            rows_all[float](<const float *> source.view.buf, <float *> target.view.buf, rows, n,
                            epsilon, <const float *> factors.view.buf,
                            <const float *> offsets.view.buf, <double *> means.view.buf,
                            <double *> scales.view.buf)
    else:
        with nogil:
            rows_all[double](<const double *> source.view.buf, <double *> target.view.buf, rows, n,
                             epsilon, <const double *> factors.view.buf,
                             <const double *> offsets.view.buf, <double *> means.view.buf,
                             <double *> scales.view.buf)


cdef void rows_block_back(const real *x, const real *dy, real *dx, int64_t rows, int64_t n,
                          const double *mean, const double *scale, const real *gamma,
                          int64_t block, double *sums) noexcept nogil:
    """sums: dgamma and dbeta of the block."""
    cdef int64_t first = block * block_rows(rows)
    cdef size_t m = <size_t> (min(rows, first + block_rows(rows)) - first)
    if block == 0:
        cdrop_note_team()
    memset(sums, 0, 2 * n * sizeof(double))
    if real is float:
        cdrop_active.normalize_rows_back_f32(m, n, gamma, mean + first, scale + first,
                                             x + first * n, dy + first * n, dx + first * n, sums,
                                             sums + n)
    else:
        cdrop_active.normalize_rows_back_f64(m, n, gamma, mean + first, scale + first,
                                             x + first * n, dy + first * n, dx + first * n, sums,
                                             sums + n)


cdef void rows_all_back(const real *x, const real *dy, real *dx, int64_t rows, int64_t n,
                        const double *mean, const double *scale, const real *gamma, real *dgamma,
                        real *dbeta, double *sums) noexcept nogil:
    cdef int64_t blocks = (rows + block_rows(rows) - 1) // block_rows(rows), b, c
    cdef int team = cdrop_team_for(2 * ROWS_NS * rows * n)
    for b in prange(blocks, num_threads=team, schedule="static", use_threads_if=team > 1):
        rows_block_back(x, dy, dx, rows, n, mean, scale, gamma, b, sums + 2 * b * n)
    add_blocks(blocks, 2 * n, sums)
    for c in range(n):
        dgamma[c] = <real> sums[c]
        dbeta[c] = <real> sums[n + c]


def layer_normalize_back(x, dy, dx, mean, scale, gamma, dgamma, dbeta):
    """The gradients, from the mean and scale that layer_normalize gave."""
    cdef Buffer source = matrix("x", x), back = matrix("dy", dy, source)
    cdef Buffer target = matrix("dx", dx, source, True)
    cdef int64_t rows = source.view.shape[0], n = source.view.shape[1]
    cdef Py_ssize_t itemsize = source.view.itemsize
    cdef Buffer means = array_of("mean", mean, F64, rows)
    cdef Buffer scales = array_of("scale", scale, F64, rows)
    cdef Buffer factors = array_of("gamma", gamma, source.dtype, n)
    cdef Buffer factor_sums = array_of("dgamma", dgamma, source.dtype, n, True)
    cdef Buffer sums = array_of("dbeta", dbeta, source.dtype, n, True)
    cdef void *room
    if rows == 0 or n == 0:
        raise ValueError("there is no gradient of a batch of nothing")
    room = room_for((BLOCKS + 1) * 2 * n * sizeof(double))
    if source.dtype == F32:
        with nogil:
            rows_all_back[float](
                <const float *> source.view.buf, <const float *> back.view.buf,
                <float *> target.view.buf, rows, n, <const double *> means.view.buf,
                <const double *> scales.view.buf, <const float *> factors.view.buf,
                <float *> factor_sums.view.buf, <float *> sums.view.buf, <double *> room)
    else:
        with nogil:
            rows_all_back[double](
                <const double *> source.view.buf, <const double *> back.view.buf,
                <double *> target.view.buf, rows, n, <const double *> means.view.buf,
                <const double *> scales.view.buf, <const double *> factors.view.buf,
                <double *> factor_sums.view.buf, <double *> sums.view.buf, <double *> room)
    cdrop_scratch_give(room)
