/* RMS norm of rows (n, D) without gain, float32. */

#include "kernel.h"

static const float EPS = 1.1920929e-07f;  /* the machine epsilon of float32, as in rms_norm.py */

/* y = x inverse with inverse (n) = 1 / sqrt(mean x^2 + eps). */
int rms_norm_forward(const float *x, float *y, float *inverse, long rows, long width, long threads)
{
    PARALLEL(rows * width)
    for (long r = 0; r < rows; r++) {
        const float *from = x + r * width;
        float *to = y + r * width, factor = 1 / sqrtf(dot(from, from, width) / width + EPS);
        for (long c = 0; c < width; c++) to[c] = factor * from[c];
        inverse[r] = factor;
    }
    return 0;
}

/* dx = inverse (g - y mean(g y)). */
int rms_norm_backward(const float *g, const float *y, const float *inverse, float *dx, long rows, long width, long threads)
{
    PARALLEL(rows * width)
    for (long r = 0; r < rows; r++) {
        const float *grad = g + r * width, *out = y + r * width;
        float *to = dx + r * width, along = dot(grad, out, width) / width, factor = inverse[r];
        for (long c = 0; c < width; c++) to[c] = factor * (grad[c] - along * out[c]);
    }
    return 0;
}
