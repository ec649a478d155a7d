/* max(x, 0)^2 and its gradient 2 max(x, 0) g, one pass over memory each. */

#include "kernel.h"

enum { CHUNK = 4096 };

int relu_squared_forward(const number *restrict x, number *restrict y, long count, long threads)
{
    PARALLEL(count)
    for (long start = 0; start < count; start += CHUNK) {
        long end = count < start + CHUNK ? count : start + CHUNK;
        for (long i = start; i < end; i++) {
            float z = wide(x[i]), positive = z < 0 ? 0 : z;  /* NaN stays NaN */
            y[i] = narrow(positive * positive);
        }
    }
    return 0;
}

int relu_squared_backward(const number *restrict x, const number *restrict g, number *restrict dx, long count, long threads)
{
    PARALLEL(count)
    for (long start = 0; start < count; start += CHUNK) {
        long end = count < start + CHUNK ? count : start + CHUNK;
        for (long i = start; i < end; i++) {
            float z = wide(x[i]), positive = z < 0 ? 0 : z;
            dx[i] = narrow(2 * positive * wide(g[i]));
        }
    }
    return 0;
}

/* Both at once: y = max(x, 0)^2 and dx = 2 max(x, 0) g, which may be g. */
int relu_squared_both(const number *restrict x, const number *g, number *restrict y, number *dx, long count, long threads)
{
    PARALLEL(count)
    for (long start = 0; start < count; start += CHUNK) {
        long end = count < start + CHUNK ? count : start + CHUNK;
#pragma GCC ivdep
        for (long i = start; i < end; i++) {
            float z = wide(x[i]), positive = z < 0 ? 0 : z;
            y[i] = narrow(positive * positive);
            dx[i] = narrow(2 * positive * wide(g[i]));
        }
    }
    return 0;
}
