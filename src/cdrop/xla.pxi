# A custom call of XLA: dropout of an array, on XLA's threads and without the GIL.

cdef extern from "xla.h" nogil:
    int CDROP_XLA_MAJOR, CDROP_XLA_MINOR, CDROP_XLA_U32, CDROP_XLA_F16, CDROP_XLA_F32
    int CDROP_XLA_F64, CDROP_XLA_BF16, CDROP_XLA_SCALAR, CDROP_XLA_METADATA, CDROP_XLA_EXECUTE
    int CDROP_XLA_INVALID_ARGUMENT

    ctypedef struct cdrop_xla_extension:
        int32_t kind

    ctypedef struct cdrop_xla_version:
        int32_t major
        int32_t minor

    ctypedef struct cdrop_xla_metadata:
        cdrop_xla_version version
        uint32_t traits

    ctypedef struct cdrop_xla_metadata_extension:
        cdrop_xla_metadata *metadata

    ctypedef struct cdrop_xla_error:
        pass

    ctypedef struct cdrop_xla_error_arguments:
        size_t size
        cdrop_xla_extension *extensions
        const char *message
        int32_t code

    ctypedef struct cdrop_xla_api:
        cdrop_xla_error *(*create_error)(cdrop_xla_error_arguments *) noexcept nogil

    ctypedef struct cdrop_xla_buffer:
        int32_t dtype
        void *data
        int64_t ndim
        int64_t *shape

    ctypedef struct cdrop_xla_scalar:
        int32_t dtype
        void *value

    ctypedef struct cdrop_xla_buffers:
        int64_t count
        cdrop_xla_buffer **buffers

    ctypedef struct cdrop_xla_attributes:
        int64_t count
        int32_t *kinds
        void **values

    ctypedef struct cdrop_xla_call:
        cdrop_xla_extension *extensions
        const cdrop_xla_api *api
        int32_t stage
        cdrop_xla_buffers arguments
        cdrop_xla_buffers results
        cdrop_xla_attributes attributes


cdef cdrop_xla_error *xla_error(const cdrop_xla_call *call, const char *message) noexcept nogil:
    cdef cdrop_xla_error_arguments arguments
    arguments.size = sizeof(cdrop_xla_error_arguments)
    arguments.extensions = NULL
    arguments.message = message
    arguments.code = CDROP_XLA_INVALID_ARGUMENT
    return call.api.create_error(&arguments)


cdef int xla_dtype(int32_t dtype) noexcept nogil:
    """The number of a dtype here, or -1."""
    if dtype == CDROP_XLA_F32:
        return CDROP_F32
    if dtype == CDROP_XLA_F64:
        return CDROP_F64
    if dtype == CDROP_XLA_F16:
        return CDROP_F16
    return CDROP_BF16 if dtype == CDROP_XLA_BF16 else -1


cdef int64_t xla_size(const cdrop_xla_buffer *buffer) noexcept nogil:
    cdef int64_t n = 1
    cdef int d
    for d in range(<int> buffer.ndim):
        n *= buffer.shape[d]
    return n


cdef cdrop_xla_error *xla_dropout(cdrop_xla_call *call) noexcept nogil:
    """y = dropout(x, seed, place), with the fraction kept as the one attribute.

    seed: words (low, high), and place: (domain << 28 | stream, step, offset low, offset high), as
    uint32 (..., 2) and (..., 4). Each of their rows has its own mask, for an equal part of x.
    """
    cdef cdrop_xla_metadata *metadata
    cdef cdrop_xla_buffer *x
    cdef cdrop_xla_buffer *y
    cdef const cdrop_xla_scalar *attribute
    cdef const uint32_t *seed
    cdef const uint32_t *place
    cdef int64_t n, rows, row
    cdef uint64_t offset
    cdef cdrop_draw draw
    cdef double keep
    cdef int dtype
    cdef unsigned control
    cdef Py_ssize_t itemsize
    if call.extensions != NULL and call.extensions.kind == CDROP_XLA_METADATA:
        metadata = (<cdrop_xla_metadata_extension *> call.extensions).metadata
        metadata.version.major, metadata.version.minor = CDROP_XLA_MAJOR, CDROP_XLA_MINOR
        metadata.traits = 0
        return NULL
    if call.stage != CDROP_XLA_EXECUTE:
        return NULL
    if (call.arguments.count != 3 or call.results.count != 1 or call.attributes.count != 1
            or call.attributes.kinds[0] != CDROP_XLA_SCALAR):
        return xla_error(call, "dropcore: dropout takes x, seed, place and keep")
    x, y = call.arguments.buffers[0], call.results.buffers[0]
    attribute = <const cdrop_xla_scalar *> call.attributes.values[0]
    dtype, n, rows = xla_dtype(x.dtype), xla_size(x), xla_size(call.arguments.buffers[1]) // 2
    if (dtype < 0 or y.dtype != x.dtype or xla_size(y) != n
            or call.arguments.buffers[1].dtype != CDROP_XLA_U32
            or call.arguments.buffers[2].dtype != CDROP_XLA_U32
            or attribute.dtype != CDROP_XLA_F64):
        return xla_error(call, "dropcore: dropout takes arrays of floats and words of uint32")
    if rows * 4 != xla_size(call.arguments.buffers[2]) or (rows and n % rows) or (n and not rows):
        return xla_error(call, "dropcore: x must have an equal part for each seed and place")
    keep = (<const double *> attribute.value)[0]
    if not 0.0 <= keep <= 1.0:
        return xla_error(call, "dropcore: keep must be in [0, 1]")
    draw.threshold = dropcore_threshold(keep)
    itemsize = 8 if dtype == CDROP_F64 else 4 if dtype == CDROP_F32 else 2
    n = n // rows if rows else 0
    place = <const uint32_t *> call.arguments.buffers[2].data
    for row in range(rows):
        offset = <uint64_t> place[4 * row + 3] << 32 | place[4 * row + 2]
        if offset > <uint64_t> 1 << 63 or <uint64_t> n > (<uint64_t> 1 << 63) - offset:
            return xla_error(call, "dropcore: offset + size must be <= 2**63")
    control = cdrop_flush_denormals()  # as XLA's threads do; dropout never does
    cdrop_restore_denormals(0)
    for row in range(rows):
        seed = <const uint32_t *> call.arguments.buffers[1].data + 2 * row
        place = <const uint32_t *> call.arguments.buffers[2].data + 4 * row
        offset = <uint64_t> place[3] << 32 | place[2]
        draw.address = dropcore_address_of(<uint64_t> seed[1] << 32 | seed[0],
                                           place[0] & 0xFFFFFFF, place[1], place[0] >> 28)
        dropout_flat(dtype, &draw, NULL, offset, n, 1.0 / keep if draw.threshold else 0.0,
                     <const char *> x.data + row * n * itemsize,
                     <char *> y.data + row * n * itemsize, itemsize)
    cdrop_restore_denormals(control)
    return NULL


XLA_DROPOUT = PyCapsule_New(<void *> xla_dropout, "xla._CUSTOM_CALL_TARGET", NULL)
