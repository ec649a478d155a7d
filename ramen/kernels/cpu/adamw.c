/* A step of AdamW with cautious decay: one pass over memory. Tensors are float32. See adamw.py. */

#include "kernel.h"

/* m <- lerp(m, g, new1), v <- beta2 v + new2 g^2, then w <- w - decay 1[m w > 0] w - rate / c1 m / (sqrt(v) / c2 + eps), for each of
 * some tensors of these sizes; c1 of all tensors, then c2, are in `corrections`. */
int cautious_adamw(
    float *const *weights, const float *const *gradients, float *const *firsts, float *const *seconds, const long *sizes, long tensors,
    const float *corrections, float rate, float new1, float beta2, float new2, float eps, float decay, long threads)
{
    for (long t = 0; t < tensors; t++) {
        float *restrict w = weights[t], *restrict m = firsts[t], *restrict v = seconds[t];
        const float *restrict g = gradients[t];
        float step = rate / corrections[t], widen = 1 / corrections[tensors + t];
        PARALLEL(sizes[t])
        for (long i = 0; i < sizes[t]; i++) {
            float first = m[i] + new1 * (g[i] - m[i]), second = beta2 * v[i] + new2 * g[i] * g[i];
            float shrink = ((first > 0) & (w[i] > 0)) | ((first < 0) & (w[i] < 0)) ? decay : 0;
            m[i] = first;
            v[i] = second;
            w[i] = (w[i] - shrink * w[i]) - step * (first / (sqrtf(second) * widen + eps));
        }
    }
    return 0;
}
