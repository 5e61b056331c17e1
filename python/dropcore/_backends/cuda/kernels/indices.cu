/* Sorted indices and what they stand for. */

/* How many of n sorted numbers are less than x. */
INLINE i64 less_than(const i64 *sorted, i64 n, i64 x) {
    i64 from = 0, to = n;
    while (from < to) {
        const i64 middle = from + (to - from) / 2;
        if (sorted[middle] < x)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

/* For each of `size` units its place among n sorted ones, the first if it stands there several
 * times, or -1. */
KERNEL find_units(const i64 *units, i64 n, i64 size, i64 *places) {
    for (i64 unit = FIRST; unit < size; unit += STRIDE) {
        const i64 at = less_than(units, n, unit);
        places[unit] = at < n && units[at] == unit ? at : -1;
    }
}

/* Indices, with `rows` for the padding and for those of no row: sorted, they are behind all others. */
KERNEL row_keys(const i64 *indices, i64 n, i64 rows, i64 padding, i64 *keys) {
    for (i64 i = FIRST; i < n; i += STRIDE) {
        const i64 index = indices[i];
        keys[i] = index < 0 || index >= rows || index == padding ? rows : index;
    }
}

/* Where in the sorted keys the run of equal ones begins that each belongs to. */
KERNEL run_starts(const i64 *sorted, i64 n, i64 *starts) {
    for (i64 i = FIRST; i < n; i += STRIDE) starts[i] = less_than(sorted, i, sorted[i]);
}
