/* 3 x 3 convolution of channels-last images by Winograd's minimal filtering, F(m x m, 3 x 3): m x m
 * outputs that share their (m + 2) x (m + 2) inputs take (m + 2)^2 multiplications for each pair of
 * channels, not 9 m^2 (Lavin and Gray, 2016, arXiv 1509.09308). With d the inputs, g the weights, y the
 * outputs and (.) the product of each element with its own,
 *
 *   forward   y  = A' [ (G g G') (.) (B' d B) ] A
 *   backward  dg = G' [ (A dy A') (.) (B' d B) ] G,   summed over the tiles of m x m outputs,
 *
 * and dd is a convolution again, of dy padded by 2 with the weights turned by 180 degrees. For each of
 * the elements, the products of all channels of many tiles are a matrix product.
 *
 * In bfloat16 m = 2, 16 multiplications for 36: A, B and G hold 0, 1 and a half, nothing is lost to
 * rounding that direct summation would keep. In float m = 4, 36 for 144, from the points 0, 1, -1, 1/2,
 * -2 and infinity, which round less than the usual 0, +-1, +-2 (Barabasz et al., 2020, arXiv 1803.10986).
 *
 *   x, y   (images, height, width, channels) float or bfloat16
 *   v      ((m + 2)^2, inputs, outputs) float, G g G', channels padded with zeros to whole blocks; for
 *          bfloat16 ((m + 2)^2, inputs / 2, outputs, 2)
 *
 * Sums are always float; bfloat16 rounds what is multiplied. Each function that `half` or `side`, which
 * is m + 2, is handed to is inlined where they are constants, so there is one for each type in the end.
 *
 * `convolution.py` calls these where `compiling.py` could compile them for a processor that has AVX2 or
 * AVX-512 (for bfloat16 its extension for that type); elsewhere PyTorch's convolutions are used.
 */
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 0
#endif

/* Floats in a vector register that the functions below are made for; 0 if there are none of them. */
int winograd_lanes_float(void) { return LANES; }

/* The same, or 0 if there are none for bfloat16. */
int winograd_lanes_bf16(void) {
#if defined(__AVX512BF16__) && LANES == 16
  return LANES;
#else
  return 0;
#endif
}

#if LANES

/* Rows and columns of a matrix product's result that are held in registers at a time: enough sums to
 * fill the pipeline, and few enough to fit, with the factors, into 32 registers or AVX2's 16. */
#define ROWS (LANES == 16 ? 8 : 6)
#define COLUMNS (2 * LANES)
#define SIDE 6              /* of a tile of inputs in float, m + 2 ... */
#define HALF_SIDE 4         /* ... and in bfloat16 */
#define PLACES (SIDE * SIDE)
#define TILES(side) ((side) == 4 ? 48 : 32) /* at a time: what they need stays in a core's cache */
#define SKEW 16             /* floats between elements' parts, so that they lie in different cache sets */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }

/* --- Arrays of either type -------------------------------------------------------------------- */

#if LANES == 16
INLINE __mmask16 first_lanes(ptrdiff_t n) { return n < LANES ? (__mmask16)((1u << n) - 1) : 0xffff; }
INLINE vec load_float(const float *p, ptrdiff_t n) {
  return n >= LANES ? load(p) : (vec)_mm512_maskz_loadu_ps(first_lanes(n), p);
}
INLINE void store_float(float *p, vec v, ptrdiff_t n) {
  if (n >= LANES) store(p, v);
  else _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v);
}
#else
INLINE __m256i first_lanes(ptrdiff_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec load_float(const float *p, ptrdiff_t n) {
  return n >= LANES ? load(p) : (vec)_mm256_maskload_ps(p, first_lanes(n));
}
INLINE void store_float(float *p, vec v, ptrdiff_t n) {
  if (n >= LANES) store(p, v);
  else _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
}
#endif

#if defined(__AVX512BF16__) && LANES == 16
#define HALF 1 /* whether there is bfloat16 */
INLINE vec load_half(const uint16_t *p, ptrdiff_t n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
INLINE void store_half(uint16_t *p, vec v, ptrdiff_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#else
#define HALF 0
INLINE vec load_half(const uint16_t *p, ptrdiff_t n) { return (void)p, (void)n, (vec){0}; }
INLINE void store_half(uint16_t *p, vec v, ptrdiff_t n) { (void)p, (void)v, (void)n; }
#endif

/* The first n lanes at an address, or all; the others are zero, or are left alone. */
INLINE vec fetch(const char *p, ptrdiff_t n, int half) {
  return half ? load_half((const uint16_t *)p, n) : load_float((const float *)p, n);
}
INLINE void put(char *p, vec v, ptrdiff_t n, int half) {
  if (half) store_half((uint16_t *)p, v, n);
  else store_float((float *)p, v, n);
}

INLINE ptrdiff_t size_of(int half) { return half ? 2 : 4; }

static ptrdiff_t padded(ptrdiff_t n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }
static ptrdiff_t whole_rows(ptrdiff_t n) { return (n + ROWS - 1) / ROWS * ROWS; }

/* Memory of this thread that is kept from call to call, aligned to cache lines; NULL if there is none. */
static float *scratch(size_t floats) {
  static _Thread_local float *kept;
  static _Thread_local size_t size;
  if (floats > size) {
    free(kept);
    kept = aligned_alloc(64, (floats * sizeof *kept + 63) / 64 * 64);
    size = kept ? floats : 0;
  }
  return kept;
}

/* --- Tiles ------------------------------------------------------------------------------------ */

typedef struct {
  ptrdiff_t images, height, width, channels; /* of the array that is cut into tiles */
  ptrdiff_t rows, columns;                   /* tiles along an image's height and width */
} Grid;

/* Which tiles a thread has, and how many of them at a time. */
typedef struct {
  ptrdiff_t start, stop, block;
} Range;

INLINE Range range_of(const Grid *g, int side) {
  const ptrdiff_t tiles = g->images * g->rows * g->columns, threads = omp_get_num_threads();
  const ptrdiff_t share = (tiles + threads - 1) / threads, blocks = (share + TILES(side) - 1) / TILES(side);
  const ptrdiff_t start = share * omp_get_thread_num(), stop = start + share;
  const ptrdiff_t block = (share + blocks - 1) / blocks;
  return (Range){start, stop < tiles ? stop : tiles, whole_rows(block)};
}

/* Where the places of tile t of `side` x `side` begin, `step` apart from the next one's, `outside` for
 * those beyond the image. */
INLINE void places_of(const Grid *g, const char *array, ptrdiff_t t, int side, int step, ptrdiff_t pad,
                      const char *outside, const char **at, int half) {
  const ptrdiff_t image = t / (g->rows * g->columns), within = t % (g->rows * g->columns);
  const ptrdiff_t top = within / g->columns * step - pad, left = within % g->columns * step - pad;
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      const ptrdiff_t y = top + i, x = left + j;
      const int inside = y >= 0 && y < g->height && x >= 0 && x < g->width;
      const ptrdiff_t place = (image * g->height + y) * g->width + x;
      at[i * side + j] = inside ? array + place * g->channels * size_of(half) : outside;
    }
}

/* The matrices, each times a column of vectors: B' x, A' x, A x, G x and G' x. */

INLINE void by_b(const vec *x, vec *y, int side) {
  if (side == 4) {
    y[0] = x[0] - x[2], y[1] = x[1] + x[2], y[2] = x[2] - x[1], y[3] = x[1] - x[3];
    return;
  }
  const vec odd = x[3] - x[1], even = x[4] - x[2];
  y[0] = x[0] + x[4] - 2 * x[2] + 1.5f * odd;
  y[1] = x[4] + 0.5f * x[2] + 2.5f * x[3] - x[1];
  y[2] = x[4] - 2.5f * x[2] + 0.5f * x[3] + x[1];
  y[3] = even + 2 * odd;
  y[4] = even - 0.5f * odd;
  y[5] = x[1] + x[5] - 2 * x[3] + 1.5f * even;
}

INLINE void by_a_turned(const vec *x, vec *y, int side) {
  const vec sum = x[1] + x[2], difference = x[1] - x[2];
  if (side == 4) {
    y[0] = x[0] + sum, y[1] = difference - x[3];
    return;
  }
  y[0] = x[0] + sum + x[3] + x[4];
  y[1] = difference + 0.5f * x[3] - 2 * x[4];
  y[2] = sum + 0.25f * x[3] + 4 * x[4];
  y[3] = difference + 0.125f * x[3] - 8 * x[4] + x[5];
}

INLINE void by_a(const vec *x, vec *y, int side) {
  y[0] = x[0];
  if (side == 4) {
    y[1] = x[0] + x[1], y[2] = x[0] - x[1], y[3] = -x[1];
    return;
  }
  const vec even = x[0] + x[2], odd = x[1] + x[3];
  y[1] = even + odd, y[2] = even - odd;
  y[3] = x[0] + 0.5f * x[1] + 0.25f * x[2] + 0.125f * x[3];
  y[4] = x[0] - 2 * x[1] + 4 * x[2] - 8 * x[3];
  y[5] = x[3];
}

INLINE void by_g(const vec *x, vec *y, int side) {
  const vec even = x[0] + x[2];
  y[0] = x[0], y[side - 1] = x[2];
  if (side == 4) {
    y[1] = 0.5f * (even + x[1]), y[2] = 0.5f * (even - x[1]);
    return;
  }
  y[1] = (even + x[1]) * (1 / 3.0f);
  y[2] = (even - x[1]) * (-1 / 3.0f);
  y[3] = (x[0] + 0.5f * x[1] + 0.25f * x[2]) * (-16 / 15.0f);
  y[4] = (x[0] - 2 * x[1] + 4 * x[2]) * (1 / 15.0f);
}

INLINE void by_g_turned(const vec *x, vec *y, int side) {
  if (side == 4) {
    const vec sum = 0.5f * (x[1] + x[2]);
    y[0] = x[0] + sum, y[1] = 0.5f * (x[1] - x[2]), y[2] = sum + x[3];
    return;
  }
  const vec sum = (x[1] - x[2]) * (1 / 3.0f), third = x[3] * (-16 / 15.0f), fourth = x[4] * (1 / 15.0f);
  y[0] = x[0] + sum + third + fourth;
  y[1] = (x[1] + x[2]) * (1 / 3.0f) + 0.5f * third - 2 * fourth;
  y[2] = sum + 0.25f * third + 4 * fourth + x[5];
}

/* y (to, to) = W x W' from x (from, from), W being a matrix of the above. */
typedef void Matrix(const vec *x, vec *y, int side);
INLINE void both_sides(Matrix w, const vec *x, int from, vec *y, int to, int side) {
  vec column[SIDE], product[SIDE], half[SIDE][SIDE];
#pragma GCC unroll 6
  for (int j = 0; j < from; j++) {
#pragma GCC unroll 6
    for (int i = 0; i < from; i++) column[i] = x[i * from + j];
    w(column, product, side);
#pragma GCC unroll 6
    for (int i = 0; i < to; i++) half[i][j] = product[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < to; i++) w(half[i], y + i * to, side);
}

/* B' d B of one tile of inputs, or with `gradient` A dy A' of one of gradients, for all channels: at
 * u + element * step + channel. `to_half` is the type of u, whose channels from `channels` to `wide`
 * are zeros. */
INLINE void transform(const char *const *at, int gradient, ptrdiff_t channels, ptrdiff_t wide, char *u,
                      ptrdiff_t step, int half, int to_half, int side) {
  const int from = gradient ? side - 2 : side;
  const ptrdiff_t size = size_of(to_half);
  for (ptrdiff_t c = 0; c < wide; c += LANES) {
    const ptrdiff_t left = channels - c;
    vec x[PLACES], y[PLACES] = {0};
    if (left > 0) {
#pragma GCC unroll 36
      for (int i = 0; i < from * from; i++) x[i] = fetch(at[i] + c * size_of(half), left, half);
      both_sides(gradient ? by_a : by_b, x, from, y, side, side);
    }
#pragma GCC unroll 36
    for (int e = 0; e < side * side; e++) put(u + (e * step + c) * size, y[e], LANES, to_half);
  }
}

INLINE vec activated(vec v, float slope) { /* slope is at most 1, so the larger is the right one */
#if LANES == 16
  return (vec)_mm512_max_ps((__m512)(slope * v), (__m512)v);
#else
  return (vec)_mm256_max_ps((__m256)(slope * v), (__m256)v);
#endif
}

/* y = LeakyReLU(A' m A + bias) of one tile, `slope` 1 for none; places beyond the outputs are NULL. */
INLINE void transform_outputs(const float *m, ptrdiff_t step, const float *bias, float slope,
                              ptrdiff_t channels, char *const *at, int half, int side) {
  const int to = side - 2;
  for (ptrdiff_t c = 0; c < channels; c += LANES) {
    const ptrdiff_t n = channels - c;
    const vec add = bias ? load_float(bias + c, n) : (vec){0};
    vec x[PLACES], y[PLACES];
#pragma GCC unroll 36
    for (int e = 0; e < side * side; e++) x[e] = load(m + e * step + c);
    both_sides(by_a_turned, x, side, y, to, side);
#pragma GCC unroll 16
    for (int i = 0; i < to * to; i++)
      if (at[i]) put(at[i] + c * size_of(half), activated(y[i] + add, slope), n, half);
  }
}

/* --- Matrix products -------------------------------------------------------------------------- */

/* c (ROWS, COLUMNS) = or += the sum over k of a[k * a_k + r * a_r] b[k * ld + column]. In bfloat16 an
 * entry of a and b is a pair of neighbours in k, and both products are added. */
INLINE void multiply(const void *a, ptrdiff_t a_r, ptrdiff_t a_k, const void *b, float *c, ptrdiff_t ld,
                     ptrdiff_t count, int add, int half) {
  (void)half;
  vec sum[ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
    sum[r][0] = add ? load(c + r * ld) : (vec){0};
    sum[r][1] = add ? load(c + r * ld + LANES) : (vec){0};
  }
  for (ptrdiff_t k = 0; k < count; k++) {
    const vec left = load((const float *)b + k * ld), right = load((const float *)b + k * ld + LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
#if HALF
      if (half) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(((const int *)a)[k * a_k + r * a_r]);
        sum[r][0] = (vec)_mm512_dpbf16_ps((__m512)sum[r][0], pair, (__m512bh)left);
        sum[r][1] = (vec)_mm512_dpbf16_ps((__m512)sum[r][1], pair, (__m512bh)right);
        continue;
      }
#endif
      const float v = ((const float *)a)[k * a_k + r * a_r];
      sum[r][0] += v * left;
      sum[r][1] += v * right;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
    store(c + r * ld, sum[r][0]);
    store(c + r * ld + LANES, sum[r][1]);
  }
}

/* Two rows of floats a and b as one row of pairs (a, b) in bfloat16. */
static void pair_up(const float *a, const float *b, ptrdiff_t count, float *pairs) {
#if HALF
  for (ptrdiff_t c = 0; c < count; c += LANES) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(a + c)));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(b + c)));
    store(pairs + c, (vec)_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
#else
  (void)a, (void)b, (void)count, (void)pairs;
#endif
}

/* --- The three convolutions ------------------------------------------------------------------- */

/* What a convolution is asked for; only what it needs is set. */
typedef struct {
  const char *x, *dy;
  const float *v, *bias;
  char *y;
  float slope, *sums;
  ptrdiff_t images, height, width, inputs, outputs, pad;
} Task;

INLINE Grid grid_of(const Task *of, ptrdiff_t height, ptrdiff_t width, ptrdiff_t channels,
                    ptrdiff_t high, ptrdiff_t broad, ptrdiff_t m) {
  return (Grid){of->images, height, width, channels, (high + m - 1) / m, (broad + m - 1) / m};
}

/* A thread's part of v = G g G', from weights g[output * by_output + input * by_input + y * by_y +
 * x * by_x], turned by 180 degrees if `turned`. 1 if memory is short. */
INLINE int weights(const float *g, ptrdiff_t by_output, ptrdiff_t by_input, ptrdiff_t by_y,
                   ptrdiff_t by_x, ptrdiff_t outputs, ptrdiff_t inputs, ptrdiff_t turned, float *v,
                   int half, int side) {
  const ptrdiff_t in = padded(inputs), out = padded(outputs), places = side * side;
  float *taps = scratch((9 + 2 * places) * out), *transformed = taps + 9 * out; /* G g G' of two inputs */
  if (!taps) return 1;
  memset(taps, 0, 9 * out * sizeof *taps);
  for (ptrdiff_t pair = omp_get_thread_num(); 2 * pair < in; pair += omp_get_num_threads()) {
    for (ptrdiff_t second = 0; second < 2; second++) {
      const ptrdiff_t i = 2 * pair + second;
      for (int tap = 0; tap < 9; tap++) {
        const int from = turned ? 8 - tap : tap;
        const float *w = g + i * by_input + from / 3 * by_y + from % 3 * by_x;
        for (ptrdiff_t o = 0; o < outputs; o++)
          taps[tap * out + o] = i < inputs ? w[o * by_output] : 0;
      }
      for (ptrdiff_t o = 0; o < out; o += LANES) {
        vec x[9], y[PLACES];
        for (int tap = 0; tap < 9; tap++) x[tap] = load(taps + tap * out + o);
        both_sides(by_g, x, 3, y, side, side);
        for (int e = 0; e < places; e++) store(transformed + (second * places + e) * out + o, y[e]);
      }
    }
    for (int e = 0; e < places; e++) {
      const float *first = transformed + e * out, *second = first + places * out;
      if (half) {
        pair_up(first, second, out, v + (e * in / 2 + pair) * out);
      } else {
        memcpy(v + (e * in + 2 * pair) * out, first, out * sizeof *v);
        memcpy(v + (e * in + 2 * pair + 1) * out, second, out * sizeof *v);
      }
    }
  }
  return 0;
}

/* A thread's part of y = LeakyReLU of the convolution of x, with `pad` zeros around it. 1 if memory is
 * short. */
INLINE int forward(const Task *of, int half, int side) {
  const int places = side * side, m = side - 2;
  const ptrdiff_t high = of->height + 2 * of->pad - 2, broad = of->width + 2 * of->pad - 2;
  const Grid from = grid_of(of, of->height, of->width, of->inputs, high, broad, m);
  const Grid to = grid_of(of, high, broad, of->outputs, high, broad, m);
  const Range range = range_of(&from, side);
  const ptrdiff_t in = padded(of->inputs), out = padded(of->outputs), size = size_of(half);
  const ptrdiff_t row = half ? in / 2 : in, used = half ? (of->inputs + 1) / 2 : of->inputs;
  const ptrdiff_t u_step = range.block * in + SKEW, p_step = range.block * out + SKEW;
  float *zeros = scratch(in + places * (u_step + p_step));
  if (!zeros) return 1;
  char *u = (char *)(zeros + in);
  float *p = zeros + in + places * u_step; /* the products */
  memset(zeros, 0, in * sizeof *zeros);
  for (ptrdiff_t start = range.start; start < range.stop; start += range.block) {
    const ptrdiff_t left = range.stop - start, count = left < range.block ? left : range.block;
    const char *at[PLACES];
    for (ptrdiff_t t = 0; t < count; t++) {
      places_of(&from, of->x, start + t, side, m, of->pad, (const char *)zeros, at, half);
      transform(at, 0, of->inputs, in, u + t * in * size, u_step, half, half, side);
    }
    for (int e = 0; e < places; e++)
      for (ptrdiff_t o = 0; o < out; o += COLUMNS)
        for (ptrdiff_t t = 0; t < count; t += ROWS)
          multiply(u + (e * u_step + t * in) * size, row, 1, of->v + e * row * out + o,
                   p + e * p_step + t * out + o, out, used, 0, half);
    for (ptrdiff_t t = 0; t < count; t++) {
      places_of(&to, of->y, start + t, m, m, 0, NULL, at, half);
      transform_outputs(p + t * out, p_step, of->bias, of->slope, of->outputs, (char *const *)at,
                        half, side);
    }
  }
  return 0;
}

/* Floats that `backward_weights` of a thread adds into for each element of (A dy A') (.) (B' d B) ... */
INLINE ptrdiff_t sums_step(const Task *of) { return whole_rows(padded(of->inputs)) * padded(of->outputs); }

/* ... and in all, those of d_bias after them. */
INLINE ptrdiff_t sums_of(const Task *of, int side) {
  return side * side * sums_step(of) + padded(of->outputs);
}

/* A thread's part of the sums over all tiles, from x and dy. 1 if memory is short. */
INLINE int backward_weights(const Task *of, int half, int side) {
  const int places = side * side, m = side - 2;
  const ptrdiff_t high = of->height - 2, broad = of->width - 2;
  const Grid from = grid_of(of, of->height, of->width, of->inputs, high, broad, m);
  const Grid to = grid_of(of, high, broad, of->outputs, high, broad, m);
  const Range range = range_of(&from, side);
  const ptrdiff_t in = padded(of->inputs), out = padded(of->outputs), wide = in > out ? in : out;
  const ptrdiff_t rows = half ? range.block / 2 : range.block; /* a pair of tiles each in bfloat16 */
  const ptrdiff_t u_step = rows * in + SKEW, h_step = rows * out + SKEW;
  const ptrdiff_t two_u_step = 2 * in + SKEW, two_h_step = 2 * out + SKEW; /* of a pair in float */
  const ptrdiff_t s_step = sums_step(of);
  float *zeros = scratch(wide + places * (u_step + h_step + two_u_step + two_h_step));
  if (!zeros) return 1;
  float *u = zeros + wide, *h = u + places * u_step;
  float *two_u = h + places * h_step, *two_h = two_u + places * two_u_step;
  float *sums = of->sums + omp_get_thread_num() * sums_of(of, side);
  memset(zeros, 0, wide * sizeof *zeros);
  for (ptrdiff_t start = range.start; start < range.stop; start += range.block) {
    const ptrdiff_t left = range.stop - start, count = left < range.block ? left : range.block;
    const char *at[PLACES], *none = (const char *)zeros;
    for (ptrdiff_t t = 0; t < count; t++) {
      /* In bfloat16 first into one half of the pair. */
      const ptrdiff_t at_u = half ? two_u_step : u_step, at_h = half ? two_h_step : h_step;
      float *to_u = half ? two_u + t % 2 * in : u + t * in;
      float *to_h = half ? two_h + t % 2 * out : h + t * out;
      places_of(&from, of->x, start + t, side, m, 0, none, at, half);
      transform(at, 0, of->inputs, in, (char *)to_u, at_u, half, 0, side);
      places_of(&to, of->dy, start + t, m, m, 0, none, at, half);
      transform(at, 1, of->outputs, out, (char *)to_h, at_h, half, 0, side);
      for (ptrdiff_t o = 0; o < out; o++) /* element (1, 1) of A dy A', at 1, is the sum of all */
        sums[places * s_step + o] += to_h[(side + 1) * at_h + o];
      if (!half || (t % 2 == 0 && t + 1 < count)) continue;
      for (int e = 0; e < places; e++) {
        const float *a = two_u + e * two_u_step, *b = two_h + e * two_h_step;
        const int alone = t % 2 == 0; /* the last one: its partner is zeros */
        pair_up(a, alone ? zeros : a + in, in, u + e * u_step + t / 2 * in);
        pair_up(b, alone ? zeros : b + out, out, h + e * h_step + t / 2 * out);
      }
    }
    const ptrdiff_t summed = half ? (count + 1) / 2 : count;
    for (int e = 0; e < places; e++)
      for (ptrdiff_t o = 0; o < out; o += COLUMNS)
        for (ptrdiff_t i = 0; i < of->inputs; i += ROWS)
          multiply(u + e * u_step + i, 1, in, h + e * h_step + o, sums + e * s_step + i * out + o,
                   out, summed, 1, half);
  }
  return 0;
}

/* dg (3, 3, inputs, outputs) and d_bias (outputs), float, from the sums of all threads. */
INLINE void fold_gradient(const Task *of, ptrdiff_t threads, float *dg, float *d_bias, int side) {
  const ptrdiff_t inputs = of->inputs, outputs = of->outputs, out = padded(outputs);
  const ptrdiff_t step = sums_step(of), size = sums_of(of, side);
  float *sums = of->sums;
  for (ptrdiff_t thread = 1; thread < threads; thread++)
    for (ptrdiff_t j = 0; j < size; j++) sums[j] += sums[thread * size + j];
  for (ptrdiff_t i = 0; i < inputs; i++)
    for (ptrdiff_t o = 0; o < outputs; o += LANES) {
      vec x[PLACES], y[9];
      for (int e = 0; e < side * side; e++) x[e] = load(sums + e * step + i * out + o);
      both_sides(by_g_turned, x, side, y, 3, side);
      for (int tap = 0; tap < 9; tap++)
        store_float(dg + (tap * inputs + i) * outputs + o, y[tap], outputs - o);
    }
  memcpy(d_bias, sums + side * side * step, outputs * sizeof *d_bias);
}

/* The parallel regions are here, since constants do not reach into one. */
#define CONVOLUTIONS(NAME, HALF_TYPE, TILE)                                                          \
  int winograd_weights_##NAME(const float *g, ptrdiff_t by_output, ptrdiff_t by_input,               \
                              ptrdiff_t by_y, ptrdiff_t by_x, ptrdiff_t outputs, ptrdiff_t inputs,   \
                              ptrdiff_t turned, float *v) {                                          \
    int failed = 0;                                                                                  \
    _Pragma("omp parallel reduction(| : failed)") failed =                                           \
        weights(g, by_output, by_input, by_y, by_x, outputs, inputs, turned, v, HALF_TYPE, TILE);    \
    return failed;                                                                                   \
  }                                                                                                  \
  int winograd_forward_##NAME(const char *x, const float *v, const float *bias, float slope,         \
                              char *y, ptrdiff_t images, ptrdiff_t height, ptrdiff_t width,          \
                              ptrdiff_t inputs, ptrdiff_t outputs, ptrdiff_t pad) {                  \
    const Task task = {.x = x, .v = v, .bias = bias, .y = y, .slope = slope, .images = images,       \
                       .height = height, .width = width, .inputs = inputs, .outputs = outputs,       \
                       .pad = pad};                                                                  \
    int failed = 0;                                                                                  \
    _Pragma("omp parallel reduction(| : failed)") failed = forward(&task, HALF_TYPE, TILE);          \
    return failed;                                                                                   \
  }                                                                                                  \
  /* Floats that the sums below take for each thread. */                                             \
  ptrdiff_t winograd_sums_##NAME(ptrdiff_t inputs, ptrdiff_t outputs) {                              \
    return sums_of(&(Task){.inputs = inputs, .outputs = outputs}, TILE);                             \
  }                                                                                                  \
  /* Adds into the sums (threads, winograd_sums). */                                                 \
  int winograd_backward_weights_##NAME(const char *x, const char *dy, float *sums, ptrdiff_t threads,\
                                       ptrdiff_t images, ptrdiff_t height, ptrdiff_t width,          \
                                       ptrdiff_t inputs, ptrdiff_t outputs) {                        \
    const Task task = {.x = x, .dy = dy, .sums = sums, .images = images, .height = height,           \
                       .width = width, .inputs = inputs, .outputs = outputs};                        \
    int failed = 0;                                                                                  \
    _Pragma("omp parallel num_threads(threads) reduction(| : failed)")                               \
        failed = backward_weights(&task, HALF_TYPE, TILE);                                           \
    return failed;                                                                                   \
  }                                                                                                  \
  int winograd_fold_gradient_##NAME(float *sums, ptrdiff_t threads, ptrdiff_t inputs,                \
                                    ptrdiff_t outputs, float *dg, float *d_bias) {                   \
    const Task task = {.sums = sums, .inputs = inputs, .outputs = outputs};                          \
    fold_gradient(&task, threads, dg, d_bias, TILE);                                                 \
    return 0;                                                                                        \
  }

CONVOLUTIONS(float, 0, SIDE)
#if HALF
CONVOLUTIONS(bf16, 1, HALF_SIDE)
#endif

#endif
