#ifndef CDROP_CAPI_H
#define CDROP_CAPI_H

#include "dropcore/dropcore.h"

extern const dropcore_api cdrop_api;

#endif
