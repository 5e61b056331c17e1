/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dropcore for C and C++: masks, dropout, noise and max-norm without Python calls.
 *
 *     #include <Python.h>
 *     #include <dropcore/dropcore.h>
 *
 *     const dropcore_api *dropcore = dropcore_import();   (once, with the GIL; NULL: exception set)
 *     status = dropcore->dropout_f32(seed, stream, step, DROPCORE_DOMAIN_TRAINING, keep, offset,
 *                                    n, x, out);
 *
 * Compile with the folder dropcore.get_include(); nothing is linked. The functions are those of the
 * fastest instruction set that the processor has.
 *
 * What holds for all functions:
 *   Address   (seed, stream, step, domain, index) of the mask contract, see dropcore/philox.h.
 *             stream < 2^28 and domain < 16. The first element has the index `offset`, and
 *             offset + n <= 2^63. The index of an element is its position in the whole array in C
 *             order, so a part of an array is given its own offset.
 *   Units     n, rows, columns, strides and offsets count elements, never bytes. keep is the
 *             fraction kept, 1 - rate, in [0, 1].
 *   Types     f32: float, f64: double, f16: IEEE half and bf16: bfloat16, both as uint16_t.
 *   Memory    Arrays have the alignment of their type, and may be NULL if they have no elements.
 *             `out` may be the input itself. Otherwise no two arrays overlap.
 *   Results   0 (DROPCORE_OK), or a negative DROPCORE_BAD_...: then nothing was written. The same
 *             arguments give the same bits on every processor, except for the last digits of norms.
 *   Threads   Any thread may call any function at any time, with or without the GIL. Each call is
 *             serial: the caller owns the threads and gives each a part of the indices. No function
 *             allocates memory, and none uses more than 40 KB of stack.
 *   Backward  The gradient of dropout is the dropout of the gradient: call the same function with
 *             the same address and keep, and dy as x.
 *
 * The table is append-only: a function keeps its place and its meaning for as long as `version`
 * stays the same, and `size` says how many of them the installed library has. A module therefore
 * works with every later library of the same version. dropcore_import() refuses any other.
 */
#ifndef DROPCORE_H
#define DROPCORE_H

#include <stddef.h>
#include <stdint.h>

#include "dropcore/philox.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DROPCORE_API_VERSION 1
#define DROPCORE_CAPSULE "dropcore._core._C_API"

#define DROPCORE_OK 0
#define DROPCORE_BAD_KEEP (-1)  /* keep is NaN or outside [0, 1] */
#define DROPCORE_BAD_KEY (-2)   /* stream >= 2^28 or domain >= 16 */
#define DROPCORE_BAD_INDEX (-3) /* offset + n > 2^63 */
#define DROPCORE_BAD_NORM (-4)  /* max_norm is NaN, zero or negative */
#define DROPCORE_BAD_SHAPE (-5) /* stride < columns, or rows * stride > 2^63 - 1 */

typedef struct {
    uint32_t version; /* DROPCORE_API_VERSION of the library */
    uint32_t size;    /* bytes of this table */

    /* Bits of the elements [offset, offset + n): ceil(n / 8) bytes, 1 = kept. Element offset + i is
     * bit i % 8 of byte i / 8, from the least significant one. The bits after the last element are
     * 0. */
    int (*packed_mask)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, uint8_t *out);

    /* out = kept ? x * scale : +0.0, scale = 1 / keep in double (0 if keep <= 2^-33), rounded to
     * the type, or to float for 16-bit types, whose product is rounded once more. */
    int (*dropout_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, const float *x, float *out);
    int (*dropout_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, const double *x, double *out);
    int (*dropout_f16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, const uint16_t *x, uint16_t *out);
    int (*dropout_bf16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                        uint64_t offset, size_t n, const uint16_t *x, uint16_t *out);

    /* The same with given bits, packed as by packed_mask: element i is decided by bit first + i, so
     * `bits` has ceil((first + n) / 8) bytes. keep = 1 selects without scaling. */
    int (*apply_f32)(double keep, const uint8_t *bits, uint64_t first, size_t n, const float *x,
                     float *out);
    int (*apply_f64)(double keep, const uint8_t *bits, uint64_t first, size_t n, const double *x,
                     double *out);
    int (*apply_f16)(double keep, const uint8_t *bits, uint64_t first, size_t n, const uint16_t *x,
                     uint16_t *out);
    int (*apply_bf16)(double keep, const uint8_t *bits, uint64_t first, size_t n, const uint16_t *x,
                      uint16_t *out);

    /* The mask as numbers: out = kept ? scale : +0.0, which is dropout of ones. */
    int (*mask_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                    uint64_t offset, size_t n, float *out);
    int (*mask_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                    uint64_t offset, size_t n, double *out);
    int (*mask_f16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                    uint64_t offset, size_t n, uint16_t *out);
    int (*mask_bf16)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                     uint64_t offset, size_t n, uint16_t *out);

    /* *out = round(keep * 2^32), half to even: an element is kept if its uniform is below it. */
    int (*threshold)(double keep, uint64_t *out);

    /* The uniforms of the decisions, in [0, 2^32): 32 planes an element, so that a mask costs less
     * by packed_mask. For rates that differ by element. */
    int (*uniforms)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain,
                    uint64_t offset, size_t n, uint32_t *out);

    /* Standard normals of the noise domain, as dropcore.noise.normal draws them. */
    int (*normal_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset, size_t n,
                      float *out);
    int (*normal_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint64_t offset, size_t n,
                      double *out);

    /* Shorten, in place, the rows (or the columns) of w whose Euclidean norm exceeds max_norm > 0,
     * which may be infinite. Element (r, c) is w[r * stride + c], stride >= columns. All others are
     * not written, nor are vectors with a NaN or an infinity. Afterwards each finite norm is at
     * most max_norm in double, and a second call changes nothing. *shortened, if it is not NULL, is
     * the number of vectors that were written. */
    int (*max_norm_rows_f32)(double max_norm, size_t rows, size_t columns, size_t stride, float *w,
                             size_t *shortened);
    int (*max_norm_rows_f64)(double max_norm, size_t rows, size_t columns, size_t stride, double *w,
                             size_t *shortened);
    int (*max_norm_columns_f32)(double max_norm, size_t rows, size_t columns, size_t stride,
                                float *w, size_t *shortened);
    int (*max_norm_columns_f64)(double max_norm, size_t rows, size_t columns, size_t stride,
                                double *w, size_t *shortened);
} dropcore_api;

#if defined(Py_PYTHON_H)
/* The table of the installed library. NULL with an exception set if there is none (ImportError), or
 * if its version is not that of this header (ImportError that names both). A version is written
 * as in 1.23: the version of the table and the number of its functions. */
DROPCORE_FN const dropcore_api *dropcore_import(void) {
    const unsigned head = (unsigned)offsetof(dropcore_api, packed_mask);
    const dropcore_api *api = NULL;
    PyObject *core = PyImport_ImportModule("dropcore._core"), *capsule = NULL;
    if (core) capsule = PyObject_GetAttrString(core, "_C_API");
    if (capsule) api = (const dropcore_api *)PyCapsule_GetPointer(capsule, DROPCORE_CAPSULE);
    Py_XDECREF(capsule);
    Py_XDECREF(core);
    if (api && (api->version != DROPCORE_API_VERSION || api->size < sizeof(dropcore_api))) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for version %u.%u of dropcore's C API, and the "
                     "installed dropcore has version %u.%u: %s",
                     (unsigned)DROPCORE_API_VERSION,
                     ((unsigned)sizeof(dropcore_api) - head) / (unsigned)sizeof(void *),
                     (unsigned)api->version,
                     ((unsigned)api->size - head) / (unsigned)sizeof(void *),
                     api->version > DROPCORE_API_VERSION
                         ? "compile the module again with the headers in dropcore.get_include()"
                         : "update dropcore, as by pip install --upgrade dropcore");
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
