/* Normalisation, activation and softmax of channels-last activations, in as few passes over memory as
 * there can be. `batch_norm.py` has the same with PyTorch's operations, and uses these instead where
 * they could be compiled (`compiling.py`). Rows are positions, columns channels.
 *
 *   x, g, y, dx   (rows, channels) float or bfloat16
 *   w             (period,) coverage of row r at r % period, or NULL for ones
 *   others        (channels,) float
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16   /* channels at a time: the accumulators stay in registers */
#define SAMPLED 64 /* rows that are near the mean of all together */
#define BLOCK 128 /* rows that are added in float before the sum goes to double */

static inline float from_float(float v) { return v; }
static inline float to_float(float v) { return v; }

typedef uint16_t bf16;
static inline float from_bf16(bf16 v) {
  uint32_t bits = (uint32_t)v << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
static inline bf16 to_bf16(float v) {
  uint32_t bits;
  if (v != v) return 0x7fc0; /* rounding could turn other NaNs into zeros */
  memcpy(&bits, &v, sizeof bits);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}

/* Adds into sums[0..1][c] what two per-element terms of a block of rows come to. */
#define SUM_BLOCK(N, FIRST, SECOND)                                    \
  for (ptrdiff_t c = c0; c + (N) <= channels; c += (N)) {              \
    float a[N] = {0}, b[N] = {0};                                      \
    ptrdiff_t place = start % period;                                  \
    for (ptrdiff_t r = start; r < stop; r++) {                         \
      const float weight = w ? w[place] : 1.0f;                        \
      place = place + 1 == period ? 0 : place + 1;                     \
      (void)weight;                                                    \
      for (int i = 0; i < (N); i++) {                                  \
        const ptrdiff_t j = c + i, at = r * channels + j;              \
        FIRST;                                                         \
        a[i] += first;                                                 \
        b[i] += SECOND;                                                \
      }                                                                \
    }                                                                  \
    for (int i = 0; i < (N); i++) mine[c + i] += a[i], mine[channels + c + i] += b[i]; \
    c0 = c + (N);                                                      \
  }

/* Runs SUM_BLOCK over all rows in parallel; sums (2, channels) double. 1 if memory is short.
 * Each thread adds up its own rows, always the same ones, and the threads' sums are added in the
 * order of their numbers: the result does not depend on which thread is done first. */
#define SUM_ROWS(FIRST, SECOND)                                              \
  const int threads = omp_get_max_threads();                                 \
  double *all = calloc((size_t)threads * 2 * channels, sizeof *all);         \
  if (!all) return 1;                                                        \
  _Pragma("omp parallel num_threads(threads)")                               \
  {                                                                          \
    double *mine = all + (ptrdiff_t)omp_get_thread_num() * 2 * channels;     \
    _Pragma("omp for schedule(static)")                                      \
    for (ptrdiff_t block = 0; block < (rows + BLOCK - 1) / BLOCK; block++) { \
      const ptrdiff_t start = block * BLOCK;                                 \
      const ptrdiff_t stop = start + BLOCK < rows ? start + BLOCK : rows;    \
      ptrdiff_t c0 = 0;                                                      \
      SUM_BLOCK(LANES, FIRST, SECOND)                                        \
      SUM_BLOCK(1, FIRST, SECOND)                                            \
    }                                                                        \
  }                                                                          \
  memset(sums, 0, 2 * channels * sizeof *sums);                              \
  for (int thread = 0; thread < threads; thread++)                           \
    for (ptrdiff_t c = 0; c < 2 * channels; c++)                             \
      sums[c] += all[(ptrdiff_t)thread * 2 * channels + c];                  \
  free(all);                                                                 \
  return 0;

#define KERNELS(T)                                                                              \
  /* A value near each channel's mean: of some rows all over the array. */                      \
  static void about_mean_##T(const T *x, ptrdiff_t rows, ptrdiff_t channels, float *about) {    \
    const ptrdiff_t taken = rows < SAMPLED ? rows : SAMPLED;                                    \
    memset(about, 0, channels * sizeof *about);                                                 \
    for (ptrdiff_t i = 0; i < taken; i++)                                                       \
      for (ptrdiff_t j = 0; j < channels; j++)                                                  \
        about[j] += from_##T(x[i * rows / taken * channels + j]);                               \
    for (ptrdiff_t j = 0; j < channels; j++) about[j] /= (float)taken;                          \
  }                                                                                             \
  /* Sums of w (x - about) and w (x - about)^2: a large mean costs no digits. */                \
  static int moments_##T(const T *x, const float *w, const float *about, ptrdiff_t rows,        \
                         ptrdiff_t period, ptrdiff_t channels, double *sums) {                  \
    SUM_ROWS(const float d = from_##T(x[at]) - about[j]; const float first = weight * d,        \
             first * d)                                                                         \
  }                                                                                             \
  /* y = LeakyReLU(scale x + shift) */                                                          \
  static int activate_##T(const T *x, T *restrict y, const float *restrict scale, const float *restrict shift, float slope, \
                    ptrdiff_t rows, ptrdiff_t channels) {                                       \
    _Pragma("omp parallel for schedule(static)") for (ptrdiff_t r = 0; r < rows; r++)           \
      for (ptrdiff_t j = 0; j < channels; j++) {                                                \
        const float z = scale[j] * from_##T(x[r * channels + j]) + shift[j];                    \
        y[r * channels + j] = to_##T(z > 0 ? z : slope * z);                                    \
      }                                                                                         \
    return 0;                                                                                   \
  }                                                                                             \
  /* With h the gradient before the activation: sums of h and of h (x - mean). */               \
  static int gradient_sums_##T(const T *g, const T *x, const float *scale, const float *shift,         \
                        const float *mean, float slope, ptrdiff_t rows, ptrdiff_t channels,     \
                        double *sums) {                                                         \
    const float *w = NULL;                                                                      \
    const ptrdiff_t period = 1;                                                                 \
    SUM_ROWS(const float v = from_##T(x[at]); const float h = from_##T(g[at]);                  \
             const float first = scale[j] * v + shift[j] > 0 ? h : slope * h,                   \
             first * (v - mean[j]))                                                             \
  }                                                                                             \
  /* dx = scale h + w (p + q x) */                                                              \
  static int gradient_##T(const T *g, const T *x, T *restrict dx, const float *w,                       \
                    const float *restrict scale, const float *restrict shift,                   \
                    const float *restrict p, const float *restrict q, float slope,              \
                    ptrdiff_t rows, ptrdiff_t period, ptrdiff_t channels) {                     \
    _Pragma("omp parallel for schedule(static)")                                                \
    for (ptrdiff_t start = 0; start < rows; start += BLOCK) {                                   \
      const ptrdiff_t stop = start + BLOCK < rows ? start + BLOCK : rows;                       \
      ptrdiff_t place = start % period;                                                         \
      for (ptrdiff_t r = start; r < stop; r++) {                                                \
        const float weight = w ? w[place] : 1.0f;                                               \
        place = place + 1 == period ? 0 : place + 1;                                            \
        for (ptrdiff_t j = 0; j < channels; j++) {                                              \
          const ptrdiff_t at = r * channels + j;                                                \
          const float v = from_##T(x[at]), h = from_##T(g[at]);                                 \
          const float on = scale[j] * v + shift[j] > 0 ? h : slope * h;                         \
          dx[at] = to_##T(scale[j] * on + weight * (p[j] + q[j] * v));                          \
        }                                                                                       \
      }                                                                                         \
    }                                                                                           \
    return 0;                                                                                   \
  }

/* The mean and variance of all sheets from each one's: a part is its weight, mean and variance. Put
 * together so (Chan, Golub and LeVeque, 1979) since the mean of the squares less the square of the
 * mean would lose digits. */
static void together(const double *parts, ptrdiff_t sheets, ptrdiff_t channels, float *mean, float *var) {
  const ptrdiff_t size = 1 + 2 * channels;
  double total = 0;
  for (ptrdiff_t s = 0; s < sheets; s++) total += parts[s * size];
  for (ptrdiff_t c = 1; c <= channels; c++) {
    double m = 0, v = 0;
    for (ptrdiff_t s = 0; s < sheets; s++) m += parts[s * size] / total * parts[s * size + c];
    for (ptrdiff_t s = 0; s < sheets; s++) {
      const double *part = parts + s * size, off = part[c] - m;
      v += part[0] / total * (part[channels + c] + off * off);
    }
    mean[c - 1] = (float)m, var[c - 1] = (float)v;
  }
}

/* All sheets of canvases together: sheet s has xs[s], ws[s], which add up to counts[s] over all rows,
 * rows[s] and periods[s].
 * statistics (4, channels): mean, variance, scale and shift. */
#define NORMALISATION(T)                                                                        \
  /* y = LeakyReLU(scale x + shift), which normalises. 1 if memory is short. */                 \
  int normalise_##T(ptrdiff_t sheets, const T *const *xs, const float *const *ws,               \
                    const ptrdiff_t *counts, const ptrdiff_t *rows, const ptrdiff_t *periods,   \
                    ptrdiff_t channels, const float *gamma, const float *beta, float eps, float slope, \
                    T *const *ys, float *statistics) {                                          \
    float *mean = statistics, *var = mean + channels, *scale = var + channels;                  \
    float *shift = scale + channels;                                                            \
    double *parts = malloc((size_t)sheets * (1 + 2 * channels) * sizeof *parts);                \
    int failed = !parts;                                                                        \
    for (ptrdiff_t s = 0; s < sheets && !failed; s++) {                                         \
      double *part = parts + s * (1 + 2 * channels), *first = part + 1;                         \
      part[0] = (double)counts[s];                                                              \
      about_mean_##T(xs[s], rows[s], channels, mean);                                           \
      failed = moments_##T(xs[s], ws[s], mean, rows[s], periods[s], channels, first);           \
      for (ptrdiff_t c = 0; c < channels; c++) {                                                \
        const double off = first[c] / part[0];                                                  \
        first[channels + c] = first[channels + c] / part[0] - off * off;                        \
        first[c] = mean[c] + off;                                                               \
      }                                                                                         \
    }                                                                                           \
    if (!failed) together(parts, sheets, channels, mean, var);                                  \
    free(parts);                                                                                \
    for (ptrdiff_t c = 0; c < channels && !failed; c++) {                                       \
      if (var[c] < 0) var[c] = 0; /* rounding, where all are alike */                           \
      scale[c] = gamma[c] / sqrtf(var[c] + eps);                                                \
      shift[c] = beta[c] - scale[c] * mean[c];                                                  \
    }                                                                                           \
    for (ptrdiff_t s = 0; s < sheets && !failed; s++)                                           \
      activate_##T(xs[s], ys[s], scale, shift, slope, rows[s], channels);                       \
    return failed;                                                                              \
  }                                                                                             \
  /* Its gradients, from gs, those to ys. 1 if memory is short. */                              \
  int normalise_backward_##T(ptrdiff_t sheets, const T *const *gs, const T *const *xs,          \
                             const float *const *ws, const ptrdiff_t *counts, const ptrdiff_t *rows, \
                             const ptrdiff_t *periods, ptrdiff_t channels, const float *statistics, \
                             float eps, float slope, T *const *dxs, float *d_gamma,             \
                             float *d_beta) {                                                   \
    const float *mean = statistics, *var = mean + channels, *scale = var + channels;            \
    const float *shift = scale + channels;                                                      \
    float *p = malloc((size_t)2 * channels * sizeof *p), *q = p + channels;                     \
    double *sums = calloc((size_t)4 * channels, sizeof *sums), *all = sums + 2 * channels;      \
    double total = 0;                                                                           \
    int failed = !p || !sums;                                                                   \
    for (ptrdiff_t s = 0; s < sheets && !failed; s++) {                                         \
      failed = gradient_sums_##T(gs[s], xs[s], scale, shift, mean, slope, rows[s], channels, sums); \
      for (ptrdiff_t c = 0; c < 2 * channels; c++) all[c] += sums[c];                           \
      total += (double)counts[s];                                                               \
    }                                                                                           \
    for (ptrdiff_t c = 0; c < channels && !failed; c++) {                                       \
      const double inverse = 1 / sqrt((double)var[c] + eps), step = -scale[c] / total;          \
      d_beta[c] = (float)all[c];                                                                \
      d_gamma[c] = (float)(inverse * all[channels + c]);                                        \
      /* -scale / N * (sum(h) + x^ * sum(h x^)) = p + q x */                                    \
      q[c] = (float)(step * inverse * inverse * all[channels + c]);                             \
      p[c] = (float)(step * all[c] - step * inverse * inverse * all[channels + c] * mean[c]);   \
    }                                                                                           \
    for (ptrdiff_t s = 0; s < sheets && !failed; s++)                                           \
      gradient_##T(gs[s], xs[s], dxs[s], ws[s], scale, shift, p, q, slope, rows[s], periods[s], \
                   channels);                                                                   \
    free(p), free(sums);                                                                        \
    return failed;                                                                              \
  }

#define WIDEST 1024 /* classes */

/* exp(x) for x <= 0, to 2e-7 of it; below 1e-37 about that. exp(x) = 2^n exp(r), |r| <= ln(2) / 2. */
static inline float exp_of_negative(float x) {
  x = x < -85.0f ? -85.0f : x;
  const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it leaves no digits behind the point */
  const float n = (x * 1.44269504f + to_integer) - to_integer;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float series = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r / 720)))));
  int32_t bits;
  memcpy(&bits, &series, sizeof bits);
  bits += (int32_t)n * (1 << 23);
  float power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

#define SOFTMAX(T)                                                                              \
  /* log_sums = log(sum of exp(x)) of each row, and unless p is NULL p = factor * w * exp(x - that). \
   * LANES rows at a time, side by side, so that nothing is added across a vector. 2 if there are \
   * more classes than WIDEST. */                                                               \
  int softmax_##T(const T *x, const float *w, ptrdiff_t rows, ptrdiff_t period, ptrdiff_t classes, \
                  float factor, float *log_sums, T *p) {                                        \
    if (classes > WIDEST) return 2;                                                             \
    _Pragma("omp parallel for schedule(static)")                                                \
    for (ptrdiff_t start = 0; start < rows; start += LANES) {                                   \
      const ptrdiff_t here = rows - start < LANES ? rows - start : LANES;                       \
      const T *from = x + start * classes;                                                      \
      float v[WIDEST][LANES], most[LANES], sum[LANES] = {0}, share[LANES] = {0};                \
      for (ptrdiff_t i = 0; i < LANES; i++) /* a last block has its first row again */          \
        for (ptrdiff_t j = 0; j < classes; j++)                                                 \
          v[j][i] = from_##T(from[(i < here ? i : 0) * classes + j]);                           \
      for (int i = 0; i < LANES; i++) most[i] = v[0][i];                                        \
      for (ptrdiff_t j = 1; j < classes; j++)                                                   \
        for (int i = 0; i < LANES; i++) most[i] = v[j][i] > most[i] ? v[j][i] : most[i];        \
      for (ptrdiff_t j = 0; j < classes; j++)                                                   \
        for (int i = 0; i < LANES; i++) {                                                       \
          v[j][i] = exp_of_negative(v[j][i] - most[i]);                                         \
          sum[i] += v[j][i];                                                                    \
        }                                                                                       \
      for (ptrdiff_t i = 0; i < here; i++) {                                                    \
        log_sums[start + i] = most[i] + logf(sum[i]);                                           \
        share[i] = factor * (w ? w[(start + i) % period] : 1.0f) / sum[i];                      \
      }                                                                                         \
      for (ptrdiff_t i = 0; p && i < here; i++)                                                 \
        for (ptrdiff_t j = 0; j < classes; j++)                                                 \
          p[(start + i) * classes + j] = to_##T(share[i] * v[j][i]);                            \
    }                                                                                           \
    return 0;                                                                                   \
  }

/* One copy that a sheet holds: its number m, its canvas, and its top and left place in the output. */
typedef struct {
  int64_t m, canvas, top, left;
} Window;

#define VOTES(T)                                                                                \
  /* votes (m, images, side, side) = exp(x[class m] - log_sums) at the places of each window, or of class \
   * 0 unless `by_window`; x (images, canvases, height, width, classes), log_sums without classes. */ \
  int votes_##T(const T *x, const float *log_sums, ptrdiff_t images, ptrdiff_t canvases,        \
                ptrdiff_t height, ptrdiff_t width, ptrdiff_t classes, const Window *windows,    \
                ptrdiff_t count, ptrdiff_t by_window, ptrdiff_t side, float *votes) {           \
    _Pragma("omp parallel for collapse(2) schedule(static)")                                    \
    for (ptrdiff_t n = 0; n < count; n++)                                                       \
      for (ptrdiff_t image = 0; image < images; image++) {                                      \
        const Window at = windows[n];                                                           \
        const ptrdiff_t canvas = image * canvases + at.canvas, class = by_window ? at.m : 0;    \
        for (ptrdiff_t y = 0; y < side; y++) {                                                  \
          const ptrdiff_t row = (canvas * height + at.top + y) * width + at.left;               \
          float *to = votes + ((at.m * images + image) * side + y) * side;                      \
          for (ptrdiff_t i = 0; i < side; i++) {                                                \
            const float below = from_##T(x[(row + i) * classes + class]) - log_sums[row + i];   \
            to[i] = exp_of_negative(below > 0 ? 0 : below);                                     \
          }                                                                                     \
        }                                                                                       \
      }                                                                                         \
    return 0;                                                                                   \
  }

KERNELS(float)
KERNELS(bf16)
NORMALISATION(float)
NORMALISATION(bf16)
SOFTMAX(float)
SOFTMAX(bf16)
VOTES(float)
VOTES(bf16)
