/* dropcore for C: masks and dropout without Python calls, from any thread, with or without the GIL.
 *
 *     #include <Python.h>
 *     #include <dropcore/dropcore.h>
 *
 *     const dropcore_api *dropcore = dropcore_import();      (once, with the GIL; NULL: exception set)
 *     dropcore->dropout_f32(seed, stream, step, 0, 0.5, offset, n, x, out);
 *
 * `dropcore.get_include()` is the folder to compile with. The table is append-only: what stands at
 * a place stays there, and `size` tells how much of it the installed library has. The functions are
 * serial: the caller owns the threads, and gives each its part of the index range.
 */
#ifndef DROPCORE_H
#define DROPCORE_H

#include <stddef.h>
#include <stdint.h>

#include "dropcore/philox.h"

#define DROPCORE_API_VERSION 1
#define DROPCORE_CAPSULE "dropcore._core._C_API"

/* What a function returns. */
#define DROPCORE_OK 0
#define DROPCORE_BAD_KEEP (-1)  /* keep is NaN or outside [0, 1] */
#define DROPCORE_BAD_KEY (-2)   /* stream >= 2^28 or domain >= 16 */
#define DROPCORE_BAD_INDEX (-3) /* offset + n > 2^63 */

typedef struct {
    uint32_t version; /* DROPCORE_API_VERSION of the library */
    uint32_t size;    /* bytes of this table */

    /* Bits of the elements [offset, offset + n): ceil(n / 8) bytes, little-endian, padded with 0. */
    int (*packed_mask)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, uint8_t *out);
    /* out = kept ? x / keep : +0.0; x may be out. */
    int (*dropout_f32)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, const float *x, float *out);
    int (*dropout_f64)(uint64_t seed, uint32_t stream, uint32_t step, uint32_t domain, double keep,
                       uint64_t offset, size_t n, const double *x, double *out);
} dropcore_api;

#if defined(Py_PYTHON_H)
/* The table of the installed library, or NULL with a Python exception set. */
DROPCORE_FN const dropcore_api *dropcore_import(void) {
    const dropcore_api *api = NULL;
    PyObject *core = PyImport_ImportModule("dropcore._core"), *capsule = NULL;
    if (core) capsule = PyObject_GetAttrString(core, "_C_API");
    if (capsule) api = (const dropcore_api *)PyCapsule_GetPointer(capsule, DROPCORE_CAPSULE);
    Py_XDECREF(capsule);
    Py_XDECREF(core);
    if (api && (api->version != DROPCORE_API_VERSION || api->size < sizeof(dropcore_api))) {
        PyErr_SetString(PyExc_ImportError,
                        "the installed dropcore is older than the header this was compiled with: "
                        "update dropcore or compile again");
        return NULL;
    }
    return api;
}
#endif

#endif
