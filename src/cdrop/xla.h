/* What XLA hands to a typed custom call, in the layout of its FFI of version 0.1 and later.
 *
 * Only what dropout reads is named here, so that building needs no header of XLA. XLA appends to
 * these structures and never rearranges them within major version 0; it refuses a handler whose
 * version it no longer supports. */
#ifndef CDROP_XLA_H
#define CDROP_XLA_H

#include <stddef.h>
#include <stdint.h>

enum { CDROP_XLA_MAJOR = 0, CDROP_XLA_MINOR = 1 };

enum { CDROP_XLA_U32 = 8, CDROP_XLA_F16 = 10, CDROP_XLA_F32 = 11, CDROP_XLA_F64 = 12,
       CDROP_XLA_BF16 = 16 };
enum { CDROP_XLA_SCALAR = 3 };           /* a kind of attribute */
enum { CDROP_XLA_METADATA = 1 };         /* a kind of extension */
enum { CDROP_XLA_EXECUTE = 3 };          /* a stage */
enum { CDROP_XLA_INVALID_ARGUMENT = 3 }; /* a kind of error */

typedef struct cdrop_xla_extension {
    size_t size;
    int32_t kind;
    struct cdrop_xla_extension *next;
} cdrop_xla_extension;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    int32_t major, minor;
} cdrop_xla_version;

typedef struct {
    size_t size;
    cdrop_xla_version version;
    uint32_t traits;
} cdrop_xla_metadata;

/* XLA asks for the version of a handler by a call with this extension. */
typedef struct {
    cdrop_xla_extension base;
    cdrop_xla_metadata *metadata;
} cdrop_xla_metadata_extension;

typedef struct cdrop_xla_error cdrop_xla_error;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    const char *message;
    int32_t code;
} cdrop_xla_error_arguments;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    cdrop_xla_version version;
    const void *internal;
    cdrop_xla_error *(*create_error)(cdrop_xla_error_arguments *arguments);
} cdrop_xla_api;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    int32_t dtype;
    void *data;
    int64_t ndim;
    int64_t *shape;
} cdrop_xla_buffer;

typedef struct {
    int32_t dtype;
    void *value;
} cdrop_xla_scalar;

typedef struct {
    const char *text;
    size_t size;
} cdrop_xla_name;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    int64_t count;
    int32_t *kinds;
    cdrop_xla_buffer **buffers;
} cdrop_xla_buffers;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    int64_t count;
    int32_t *kinds;
    cdrop_xla_name **names;
    void **values;
} cdrop_xla_attributes;

typedef struct {
    size_t size;
    cdrop_xla_extension *extensions;
    const cdrop_xla_api *api;
    void *context;
    int32_t stage;
    cdrop_xla_buffers arguments, results;
    cdrop_xla_attributes attributes;
} cdrop_xla_call;

#endif
