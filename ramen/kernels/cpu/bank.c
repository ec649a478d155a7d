/* Gradients into momentum, and a direction into weights: one pass over memory each. Tensors are float32. See bank.py. */

#include "kernel.h"

enum { BLOCK = 8192 };

/* The blocks of some tensors that lie side by side in a bank. */
typedef struct { long tensor, start, end, offset; } block;

static block *cut(const long *sizes, long tensors, long *count)
{
    long total = 0;
    for (long t = 0; t < tensors; t++) total += (sizes[t] + BLOCK - 1) / BLOCK;
    block *blocks = malloc((total + 1) * sizeof *blocks);
    long offset = 0;
    *count = 0;
    for (long t = 0; t < tensors && blocks; offset += sizes[t++])
        for (long start = 0; start < sizes[t]; start += BLOCK)
            blocks[(*count)++] = (block){t, start, start + BLOCK < sizes[t] ? start + BLOCK : sizes[t], offset};
    return blocks;
}

/* m <- beta m + (1 - beta) g; used (may be null) <- (1 - beta) g + beta m. The g are in tensors of these sizes, m and used in banks. */
int accumulate(const float *const *gradients, const long *sizes, long tensors, float *momentum, float *used, float beta, long threads)
{
    long count;
    block *blocks = cut(sizes, tensors, &count);
    if (!blocks) return 1;
    float rate = 1 - beta;
    PARALLEL(count * BLOCK)
    for (long b = 0; b < count; b++) {
        long length = blocks[b].end - blocks[b].start, at = blocks[b].offset + blocks[b].start;
        const float *g = gradients[blocks[b].tensor] + blocks[b].start;
        float *m = momentum + at;
        if (used) {
            float *restrict u = used + at;
            for (long i = 0; i < length; i++) {
                float moved = m[i] + rate * (g[i] - m[i]);
                m[i] = moved;
                u[i] = g[i] + beta * (moved - g[i]);
            }
        } else {
            for (long i = 0; i < length; i++) m[i] += rate * (g[i] - m[i]);
        }
    }
    free(blocks);
    return 0;
}

/* w <- w - decay mask x - rate step_scale d, where mask is 1, or when cautious d w >= 0; x is `decay_target`, or w if that is null.
 * step_scale has a number for each `elements` numbers of the bank, or is null. */
int descend(float *const *weights, const long *sizes, long tensors, const float *direction, const float *decay_target,
            const float *step_scale, long elements, float rate, float decay, long cautious, long threads)
{
    long count;
    block *blocks = cut(sizes, tensors, &count);
    if (!blocks) return 1;
    PARALLEL(count * BLOCK)
    for (long b = 0; b < count; b++) {
        long at = blocks[b].offset + blocks[b].start, end = blocks[b].offset + blocks[b].end;
        while (at < end) {  /* a stretch of one matrix */
            long stop = (at / elements + 1) * elements, length = (stop < end ? stop : end) - at;
            float *restrict w = weights[blocks[b].tensor] + (at - blocks[b].offset);
            const float *d = direction + at;
            float step = step_scale ? rate * step_scale[at / elements] : rate;
            if (decay == 0) {
                for (long i = 0; i < length; i++) w[i] -= step * d[i];
            } else if (decay_target) {
                const float *x = decay_target + at;
                for (long i = 0; i < length; i++) {
                    float shrink = !cautious || d[i] * w[i] >= 0 ? decay : 0;
                    w[i] = (w[i] - shrink * x[i]) - step * d[i];
                }
            } else {
                for (long i = 0; i < length; i++) {
                    float shrink = !cautious || d[i] * w[i] >= 0 ? decay : 0;
                    w[i] = (w[i] - shrink * w[i]) - step * d[i];
                }
            }
            at += length;
        }
    }
    free(blocks);
    return 0;
}
