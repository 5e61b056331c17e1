# The gradient of a weight as a product that goes into its update block by block, never stored.

cdef enum:
    UPDATE_ROWS = 192           # of w: their gradient, w and v stay in L2 for TASK_COLUMNS columns


cdef void update_task(const real *a, const cdrop_factor *b, real *w, const Update *u, int64_t n,
                      const Block *block, int64_t task, real *b_packed, real *gradient,
                      double max_norm) noexcept nogil:
    """Some columns of w: their gradient block by block of rows, the update, the projection."""
    cdef int64_t j = task * block.column_step, n_now = min(block.column_step, n - j)
    cdef int64_t high = (block.m + block.rows - 1) // block.rows * block.rows
    cdef int64_t step = UPDATE_ROWS // block.rows * block.rows, i = 0, m_now, d, d_now, r
    cdef double square[CDROP_CLIP_COLUMNS]
    cdef double *sums = square if max_norm > 0 else NULL
    cdef cdrop_ahead weights, velocities
    cdef unsigned control = cdrop_flush_denormals()
    if task == 0:
        cdrop_note_team()
    memset(square, 0, sizeof(square))
    d = 0
    while d < block.depth:
        d_now = min(<int64_t> DEPTH_BLOCK, block.depth - d)
        pack(b, j, n_now, d, d_now, block.width, b_packed + d * block.column_step)
        d += DEPTH_BLOCK
    while i < block.m:
        m_now = min(step, block.m - i)
        # What the update reads comes into L2 while its gradient is multiplied.
        weights.data = <const char *> (w + i * n + j)
        weights.rows, weights.bytes, weights.stride = m_now, n_now * sizeof(real), n * sizeof(real)
        weights.index, weights.also = NULL, NULL
        if u.v != NULL:
            velocities = weights
            velocities.data = <const char *> (<real *> u.v + i * n + j)
            weights.also = &velocities
        d = 0
        while d < block.depth:
            d_now = min(<int64_t> DEPTH_BLOCK, block.depth - d)
            if real is float:
                cdrop_active.block_f32(m_now, n_now, d_now, a + high * d + i * d_now,
                                       b_packed + d * block.column_step, gradient,
                                       block.column_step, d > 0,
                                       &weights if d == 0 else NULL)
            else:
                cdrop_active.block_f64(m_now, n_now, d_now, a + high * d + i * d_now,
                                       b_packed + d * block.column_step, gradient,
                                       block.column_step, d > 0,
                                       &weights if d == 0 else NULL)
            d += DEPTH_BLOCK
        for r in range(m_now):
            apply_rule(w, u, (i + r) * n + j, n_now, gradient + r * block.column_step, sums)
        i += step
    cdrop_restore_denormals(control)
    if max_norm > 0:
        if real is float:
            cdrop_clip_columns_f32(w + j, block.m, n_now, n, max_norm, square)
        else:
            cdrop_clip_columns_f64(w + j, block.m, n_now, n, max_norm, square)


cdef int update_product(const cdrop_factor *a, const cdrop_factor *b, real *w, const Update *u,
                        int64_t m, int64_t n, int64_t depth, double max_norm) except -1 nogil:
    """w (m, n) by the gradient a @ b."""
    cdef const cdrop_kernels *k = cdrop_active
    cdef int team = cdrop_team_for(
        2.0 * m * n * depth / (80.0 if real is float else 40.0) / BARRIER_COST)
    cdef int part
    cdef int64_t task, column_room, gradient_room
    cdef real *a_packed
    cdef real *rooms
    cdef Block block
    block.rows = k.tile_rows_f32 if real is float else k.tile_rows_f64
    block.width = k.tile_columns_f32 if real is float else k.tile_columns_f64
    block.row, block.m, block.depth0, block.depth, block.last = 0, m, 0, depth, True
    part_columns(&block, n, team)
    column_room = block.column_step * depth + 64
    gradient_room = block.column_step * UPDATE_ROWS + 64
    a_packed = <real *> cdrop_scratch_take(
        <size_t> ((m + block.rows) * depth + 64 + team * (column_room + gradient_room))
        * sizeof(real))
    if a_packed == NULL:
        with gil:
            raise MemoryError("no memory for packing the factors of a gradient")
    rooms = a_packed + (m + block.rows) * depth + 64
    for part in prange(team, num_threads=team, schedule="static", use_threads_if=team > 1):
        pack_part(a, &block, a_packed, part, team)
    for task in prange(block.across, num_threads=team, schedule="dynamic", use_threads_if=team > 1):
        update_task(a_packed, b, w, u, n, &block, task,
                    rooms + threadid() * (column_room + gradient_room),
                    rooms + threadid() * (column_room + gradient_room) + column_room, max_norm)
    cdrop_scratch_give(a_packed)
    return 0
