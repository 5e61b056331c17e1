/* dropcore's kernels from an extension in C. dropcore_import() finds the table of the installed
 * library, so nothing is linked; the functions may be called with or without the GIL, from any
 * thread. Both functions here return dropcore's status: 0, or a DROPCORE_BAD_... code. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dropcore/dropcore.h>

static const dropcore_api *dropcore;

/* dropout_(x, keep, seed, stream, step, offset): float32, contiguous, in place. */
static PyObject *dropout_(PyObject *self, PyObject *args) {
    Py_buffer x;
    double keep;
    unsigned long long seed, offset;
    unsigned int stream, step;
    int status;
    (void)self;
    if (!PyArg_ParseTuple(args, "w*dKIIK", &x, &keep, &seed, &stream, &step, &offset)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = dropcore->dropout_f32(seed, stream, step, DROPCORE_DOMAIN_TRAINING, keep, offset,
                                   (size_t)x.len / sizeof(float), x.buf, x.buf);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&x);
    return PyLong_FromLong(status);
}

/* packed_mask(bits, n, keep, seed, stream, step, offset): fills ceil(n / 8) bytes. */
static PyObject *packed_mask(PyObject *self, PyObject *args) {
    Py_buffer bits;
    Py_ssize_t n;
    double keep;
    unsigned long long seed, offset;
    unsigned int stream, step;
    int status;
    (void)self;
    if (!PyArg_ParseTuple(args, "w*ndKIIK", &bits, &n, &keep, &seed, &stream, &step, &offset))
        return NULL;
    if (n < 0 || bits.len < n / 8 + (n % 8 != 0)) {
        PyBuffer_Release(&bits);
        return PyErr_Format(PyExc_ValueError, "bits must have ceil(n / 8) bytes, n = %zd", n);
    }
    Py_BEGIN_ALLOW_THREADS
    status = dropcore->packed_mask(seed, stream, step, DROPCORE_DOMAIN_TRAINING, keep, offset,
                                   (size_t)n, bits.buf);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&bits);
    return PyLong_FromLong(status);
}

static PyMethodDef methods[] = {
    {"dropout_", dropout_, METH_VARARGS, "dropout_(x, keep, seed, stream, step, offset)"},
    {"packed_mask", packed_mask, METH_VARARGS,
     "packed_mask(bits, n, keep, seed, stream, step, offset)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "c_dropout",
    .m_doc = "dropcore's kernels from C.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_c_dropout(void) {
    dropcore = dropcore_import();
    PyObject *const made = dropcore ? PyModule_Create(&module) : NULL;
#ifdef Py_GIL_DISABLED
    if (made) PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
    return made;
}
