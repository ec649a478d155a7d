/* What the C kernels share: the number type of their tensors, vectors, an inner product and exp. See kernel.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Tensors are float32, or bfloat16 when compiled with -DBFLOAT16; all arithmetic is float32. */
#ifdef BFLOAT16
typedef uint16_t number;

static inline float wide(number x)
{
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

static inline number narrow(float x)  /* rounds to nearest, ties to even; NaN stays NaN */
{
    union { float value; uint32_t bits; } u = {x};
    return x == x ? (u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16 : 0x7fc0;
}
#else
typedef float number;
static inline float wide(number x) { return x; }
static inline number narrow(float x) { return x; }
#endif

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int lanes __attribute__((vector_size(4 * LANES)));
typedef float quad __attribute__((vector_size(16)));

/* A loop over `count` independent rows on as many threads as torch has; a row is one thread's, so threads change no result. */
#define PRAGMA(text) _Pragma(#text)
#define PARALLEL(work) PRAGMA(omp parallel for num_threads(threads) if ((work) > 32768))

/* The larger of each two lanes; b where one of them is NaN. As `a > b ? a : b` lane by lane, gcc does it one by one or in memory. */
static inline vector larger(vector a, vector b)
{
    lanes keep = a > b;
    return (vector)(((lanes)a & keep) | ((lanes)b & ~keep));
}

/* Inner product of n numbers. */
static inline float dot(const float *a, const float *b, long n)
{
    union { vector all; quad part[LANES / 4]; } sum = {{0}};
    quad four = {0};
    long i = 0;
    for (; i + LANES <= n; i += LANES) sum.all += *(const vector *)(a + i) * *(const vector *)(b + i);
    for (; i < n; i++) four[0] += a[i] * b[i];
    for (int p = 0; p < LANES / 4; p++) four += sum.part[p];
    return (four[0] + four[1]) + (four[2] + four[3]);
}

/* e^x for x <= 0 within 2 units in the last place; 0 below -87, NaN for NaN. */
static inline float exponential(float x)
{
    float kept = x < -87.0f ? -87.0f : x;
    float shifted = kept * 1.44269504f + 12582912.0f;  /* adding 1.5 x 2^23 rounds to an integer, in the low bits */
    float power = shifted - 12582912.0f;
    float rest = (kept - power * 0.693359375f) + power * 2.12194440e-4f;  /* ln 2 in two parts; |rest| <= ln 2 / 2 */
    float series = 1.0f / 720;
    series = series * rest + 1.0f / 120;
    series = series * rest + 1.0f / 24;
    series = series * rest + 1.0f / 6;
    series = series * rest + 0.5f;
    series = series * rest + 1.0f;
    series = series * rest + 1.0f;
    union { float value; uint32_t bits; } rounded = {shifted}, scale;
    scale.bits = (rounded.bits - 0x4b400000u + 127u) << 23;
    float result = series * scale.value;
    return x < -87.0f ? 0.0f : result;
}
