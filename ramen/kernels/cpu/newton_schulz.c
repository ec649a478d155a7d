/* Matrices at Frobenius norm 1, float32. See newton_schulz.py. */

#include "kernel.h"

enum { BLOCK = 4096 };

/* y = x / ||x||_F for each of `matrices` stretches of n numbers; zeros stay zero. The largest size goes first, so that no square
 * over- or underflows; sizes are compared by their bits, whose order is theirs. */
int unit_norm(const float *x, float *y, long matrices, long n, long threads)
{
    typedef uint32_t __attribute__((may_alias)) word;
    PARALLEL(matrices * n)
    for (long k = 0; k < matrices; k++) {
        const float *from = x + k * n;
        float *to = y + k * n, scaled[BLOCK];
        union { uint32_t bits; float value; } most = {0};
        for (long i = 0; i < n; i++) {
            uint32_t size = ((const word *)from)[i] & 0x7fffffff;
            most.bits = size > most.bits ? size : most.bits;
        }
        float inverse = most.value < 1.17549435e-38f ? 1 / 1.17549435e-38f : 1 / most.value;
        double sum = 0;
        for (long start = 0; start < n; start += BLOCK) {
            long length = start + BLOCK < n ? BLOCK : n - start;
            for (long i = 0; i < length; i++) scaled[i] = from[start + i] * inverse;
            sum += dot(scaled, scaled, length);
        }
        float norm = sqrt(sum), scale = norm < 1.17549435e-38f ? 1 : 1 / norm;
        for (long i = 0; i < n; i++) to[i] = from[i] * inverse * scale;
    }
    return 0;
}
