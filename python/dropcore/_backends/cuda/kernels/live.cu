/* What lives of a matrix, and the way back. */

/* out = x[rows][:, columns] * scale; NULL means all of them. */
template <typename T>
INLINE void compact(const T *x, i64 x_columns, const i64 *rows, const i64 *columns, i64 n_rows,
                    i64 n_columns, real_of<T> scale, T *out) {
    for (i64 i = FIRST; i < n_rows * n_columns; i += STRIDE) {
        const i64 r = i / n_columns, c = i % n_columns;
        const T value = x[(rows ? rows[r] : r) * x_columns + (columns ? columns[c] : c)];
        out[i] = scale == (real_of<T>)1 ? value : narrow<T>(widen(value) * scale);
    }
}

/* The way back: out (rows, columns) is zero but for what lives. Positions in x, or -1, or NULL. */
template <typename T>
INLINE void scatter(const T *x, i64 x_columns, const i64 *row_at, const i64 *column_at,
                    i64 n_rows, i64 n_columns, T *out) {
    for (i64 i = FIRST; i < n_rows * n_columns; i += STRIDE) {
        const i64 r = i / n_columns, c = i % n_columns;
        const i64 from_row = row_at ? row_at[r] : r, from_column = column_at ? column_at[c] : c;
        out[i] = from_row < 0 || from_column < 0 ? narrow<T>((real_of<T>)0)
                                                 : x[from_row * x_columns + from_column];
    }
}

KERNEL select_live(const STORED *x, i64 x_columns, const i64 *rows, const i64 *columns,
                   i64 n_rows, i64 n_columns, REAL scale, STORED *out) {
    compact(x, x_columns, rows, columns, n_rows, n_columns, scale, out);
}

KERNEL scatter_live(const STORED *x, i64 x_columns, const i64 *row_at, const i64 *column_at,
                    i64 n_rows, i64 n_columns, STORED *out) {
    scatter(x, x_columns, row_at, column_at, n_rows, n_columns, out);
}
