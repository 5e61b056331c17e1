/* The kept rows and columns of a matrix, and the inverse. */

/* out = x[rows][:, columns] * scale; NULL selects all of them. */
KERNEL compact(const STORED *x, i64 x_columns, const i64 *rows, const i64 *columns, i64 n_rows,
               i64 n_columns, REAL scale, STORED *out) {
    for (i64 i = FIRST; i < n_rows * n_columns; i += STRIDE) {
        const i64 r = i / n_columns, c = i % n_columns;
        const STORED value = x[(rows ? rows[r] : r) * x_columns + (columns ? columns[c] : c)];
        out[i] = scale == (REAL)1 ? value : narrow<STORED>(widen(value) * scale);
    }
}

/* out (n_rows, n_columns) is zero outside the rows and columns of x. row_position and
 * column_position: the row or column in x, or -1; NULL stands for all of them, in order. */
KERNEL scatter(const STORED *x, i64 x_columns, const i64 *row_position, const i64 *column_position,
               i64 n_rows, i64 n_columns, STORED *out) {
    for (i64 i = FIRST; i < n_rows * n_columns; i += STRIDE) {
        const i64 r = i / n_columns, c = i % n_columns;
        const i64 row = row_position ? row_position[r] : r;
        const i64 column = column_position ? column_position[c] : c;
        out[i] = row < 0 || column < 0 ? narrow<STORED>((REAL)0) : x[row * x_columns + column];
    }
}
