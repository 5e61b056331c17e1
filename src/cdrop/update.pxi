# Updates of weights, and their projection onto the max-norm ball in the same pass.
#
# Weights are seen as (outer, n, inner): the norm of a vector runs over n. Where inner is 1 a vector
# is a row, updated and measured while it is in the cache. Otherwise vectors are columns: threads
# take blocks of rows, update them and sum the squares of each column; the sums of the blocks, in
# order, decide which columns are shortened. Blocks depend on the shape alone, so no result depends
# on the team.

cdef enum:
    PANEL_COLUMNS = 8192     # of a block at a time: their sums stay in L2
    FLAT_UNIT = 4096
    SQUARES_A_BLOCK = 65536  # of a sum over everything
    NO_UPDATE = -1

cdef double READ_NS = 0.25, SGD_NS = 1.0, ADAPTIVE_NS = 1.5

ctypedef struct Update:
    int rule
    cdrop_hyperparameters hyperparameters
    bint lazy                        # what is outside of the block stays as it is
    const void *g                    # like w, or NULL with a block:
    const void *block                # gradient of kept rows x kept columns, zero elsewhere
    const int64_t *kept_row          # of each row of w: its row in the block, or -1
    const int64_t *kept_column       # columns of w
    int64_t kept_columns
    void *m                          # states, like w, or NULL
    void *v
    void *d


cdef inline void add_squares(const real *w, int64_t n, double *square) noexcept nogil:
    if real is float:
        cdrop_active.add_squares_f32(1, n, n, w, square)
    else:
        cdrop_active.add_squares_f64(1, n, n, w, square)


cdef inline void apply_rule(real *w, const Update *u, int64_t at, int64_t n, const real *g,
                            double *square) noexcept nogil:
    """The weights [at, at + n), with their gradient g, or NULL where it is zero."""
    cdef real *m = <real *> u.m + at if u.m != NULL else NULL
    cdef real *v = <real *> u.v + at if u.v != NULL else NULL
    cdef real *d = <real *> u.d + at if u.d != NULL else NULL
    if real is float:
        cdrop_active.update_f32[u.rule](n, &u.hyperparameters, g, m, v, d, w + at, square)
    else:
        cdrop_active.update_f64[u.rule](n, &u.hyperparameters, g, m, v, d, w + at, square)


cdef void update_segment(real *w, const Update *u, int64_t row, int64_t width, int64_t column,
                         int64_t n, real *gradient, double *square) noexcept nogil:
    """w[row, column ... column + n) of a matrix of that width; `gradient` is room for one row.

    square, if it is not NULL, takes in the squares of the new weights.
    """
    cdef const cdrop_kernels *k = cdrop_active
    cdef int64_t at = row * width + column, j
    cdef const real *g = NULL
    cdef const real *block
    cdef real *v
    if u.rule == NO_UPDATE:
        return
    if u.block == NULL:
        g = <const real *> u.g + at
    elif u.kept_row[row] >= 0:
        block = <const real *> u.block + u.kept_row[row] * u.kept_columns
        if u.lazy:
            v = <real *> u.v + at if u.v != NULL else NULL
            if real is float:
                k.sgd_some_f32(u.kept_columns, u.kept_column, &u.hyperparameters, block, v, w + at)
            else:
                k.sgd_some_f64(u.kept_columns, u.kept_column, &u.hyperparameters, block, v, w + at)
            if square != NULL:
                add_squares(w + at, n, square)
            return
        for j in range(u.kept_columns):  # the same places in every row: the rest stays zero
            gradient[u.kept_column[j]] = block[j]
        g = gradient
    elif u.lazy:
        if square != NULL:
            add_squares(w + at, n, square)
        return
    apply_rule(w, u, at, n, g, square)


cdef void update_flat(real *w, const Update *u, int64_t size, int part,
                      int parts) noexcept nogil:
    cdef int64_t first = chunk_start(size, part, parts, FLAT_UNIT)
    cdef int64_t last = chunk_start(size, part + 1, parts, FLAT_UNIT)
    cdef unsigned control = cdrop_flush_denormals()
    if part == 0:
        cdrop_note_team()
    if first < last:
        update_segment(w, u, 0, size, first, last - first, <real *> NULL, NULL)
    cdrop_restore_denormals(control)


cdef int64_t update_rows(real *w, const Update *u, int64_t rows, int64_t width, double max_norm,
                         real *gradient, int part, int parts) noexcept nogil:
    """Vectors are rows, or not to be projected where max_norm is 0."""
    cdef int64_t r, clipped = 0
    cdef unsigned control
    if part == 0:
        cdrop_note_team()
    for r in range(chunk_start(rows, part, parts, 1), chunk_start(rows, part + 1, parts, 1)):
        control = cdrop_flush_denormals()
        update_segment(w, u, r, width, 0, width, gradient, NULL)
        cdrop_restore_denormals(control)
        if max_norm > 0:
            if real is float:
                clipped += cdrop_clip_rows_f32(w, width, max_norm, r, r + 1)
            else:
                clipped += cdrop_clip_rows_f64(w, width, max_norm, r, r + 1)
    return clipped


cdef void update_block(real *w, const Update *u, int64_t first, int64_t last, int64_t width,
                       double *square, real *gradient) noexcept nogil:
    """Rows [first, last), and the sums of the squares of their columns."""
    cdef int64_t panel = PANEL_COLUMNS if u.block == NULL else width
    cdef int64_t column = 0, row, n
    cdef unsigned control
    memset(square, 0, width * sizeof(double))
    while column < width:
        n = min(panel, width - column)
        if u.rule == NO_UPDATE:
            if real is float:
                cdrop_active.add_squares_f32(last - first, n, width, w + first * width + column,
                                             square + column)
            else:
                cdrop_active.add_squares_f64(last - first, n, width, w + first * width + column,
                                             square + column)
        else:
            control = cdrop_flush_denormals()
            for row in range(first, last):
                update_segment(w, u, row, width, column, n, gradient, square + column)
            cdrop_restore_denormals(control)
        column += panel


cdef int64_t clip_panel(real *w, int64_t n, int64_t width, int64_t column, double max_norm,
                        const double *squares, int64_t blocks) noexcept nogil:
    """CDROP_CLIP_COLUMNS columns from `column` on, given the sums of the blocks of rows."""
    cdef double square[CDROP_CLIP_COLUMNS]
    cdef int64_t columns = min(<int64_t> CDROP_CLIP_COLUMNS, width - column), c, b
    memset(square, 0, sizeof(square))
    for b in range(blocks):
        for c in range(columns):
            square[c] += squares[b * width + column + c]
    if real is float:
        return cdrop_clip_columns_f32(w + column, n, columns, width, max_norm, square)
    else:
        return cdrop_clip_columns_f64(w + column, n, columns, width, max_norm, square)


cdef int64_t update_all(real *w, const Update *u, int64_t outer, int64_t n, int64_t inner,
                        double max_norm) except -1 nogil:
    """max_norm = 0: no projection. Returns the number of vectors that were shortened."""
    cdef double work = (READ_NS if u.rule == NO_UPDATE else
                        SGD_NS if u.rule == CDROP_SGD else ADAPTIVE_NS)
    cdef int team = cdrop_team_for(work * outer * n * inner)
    cdef int64_t rows_a_block = block_rows(n), blocks = (n + rows_a_block - 1) // rows_a_block
    cdef int64_t panels = (inner + CDROP_CLIP_COLUMNS - 1) // CDROP_CLIP_COLUMNS
    cdef int64_t width = n if inner == 1 else inner, clipped = 0, task
    cdef bint by_columns = inner > 1 and max_norm > 0
    cdef size_t sums = <size_t> (outer * blocks * inner) * sizeof(double) if by_columns else 0
    cdef size_t line = <size_t> ((width + 15) // 16 * 16) * sizeof(real) if u.block != NULL else 0
    cdef int part
    cdef char *room = NULL
    cdef double *squares
    if sums + line > 0:
        room = <char *> cdrop_scratch_take(sums + line * <size_t> team)
        if room == NULL:
            with gil:
                raise MemoryError("no memory for the norms of an update")
        memset(room + sums, 0, line * <size_t> team)
    squares = <double *> room
    if by_columns:
        for task in prange(outer * blocks, num_threads=team, schedule="static",
                           use_threads_if=team > 1):
            if task == 0:
                cdrop_note_team()
            update_block(w, u, task // blocks * n + task % blocks * rows_a_block,
                         task // blocks * n + min(n, (task % blocks + 1) * rows_a_block), inner,
                         squares + task * inner, <real *> (room + sums + line * threadid()))
        for task in prange(outer * panels, num_threads=team, schedule="static",
                           use_threads_if=team > 1):
            clipped += clip_panel(w + task // panels * n * inner, n, inner,
                                  task % panels * CDROP_CLIP_COLUMNS, max_norm,
                                  squares + task // panels * blocks * inner, blocks)
    elif max_norm > 0 or u.block != NULL:
        for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            clipped += update_rows(w, u, outer * n * inner // width, width, max_norm,
                                   <real *> (room + sums + line * threadid()), part, team)
    else:
        for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
            update_flat(w, u, outer * n * inner, part, team)
    cdrop_scratch_give(room)
    return clipped
