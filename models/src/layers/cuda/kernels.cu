// What lies between the matrix products of a transformer block, each chain in one pass over memory. These loops do
// nothing but move numbers, so they read and write 16 bytes at a time wherever the caller found that to fit: `V` is
// that many numbers, or 1. Sums and functions are in f32 whatever the type.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Rows of a matrix with one row after the other for each entry of a batch; strides in numbers.
struct Rows {
  size_t entry;
  size_t row;
};

template <typename T, int V> struct alignas(V * sizeof(T) > 16 ? 16 : V * sizeof(T)) Pack {
  T at[V];
};

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(__half x) { return __half2float(x); }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void narrow(float x, float *to) { *to = x; }
__device__ inline void narrow(float x, __half *to) { *to = __float2half_rn(x); }
__device__ inline void narrow(float x, __nv_bfloat16 *to) { *to = __float2bfloat16_rn(x); }

template <typename T, int V> __device__ inline Pack<T, V> load(const T *from) {
  return *reinterpret_cast<const Pack<T, V> *>(from);
}
template <typename T, int V> __device__ inline void store(T *to, const Pack<T, V> &pack) {
  *reinterpret_cast<Pack<T, V> *>(to) = pack;
}

__device__ inline float sum_of_warp(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffff, x, apart);
  return x;
}

// The sum over a block of up to 32 warps, in every thread. `scratch` has 32 places.
__device__ inline float sum_of_block(float x, float *scratch) {
  x = sum_of_warp(x);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return sum_of_warp(lane < warps ? scratch[lane] : 0.f);
}

// `(1 + scale) * layer_norm(x) + shift`, a block for each row, which it keeps in shared memory. `table` holds shift
// and scale side by side, for each entry of the batch.
template <typename T, int V>
__device__ void modulated_norm(T *out, const T *x, Rows rows, const float *table, size_t columns, unsigned n,
                               unsigned width, float epsilon) {
  extern __shared__ float values[];
  __shared__ float scratch[32];
  unsigned entry = blockIdx.x / n, row = blockIdx.x % n;
  x += entry * rows.entry + row * rows.row;
  out += size_t(blockIdx.x) * width;
  const float *shift = table + entry * columns, *scale = shift + width;
  float sum = 0.f;
  for (unsigned at = threadIdx.x * V; at < width; at += blockDim.x * V) {
    Pack<T, V> pack = load<T, V>(x + at);
#pragma unroll
    for (int i = 0; i < V; i++) sum += values[at + i] = wide(pack.at[i]);
  }
  float mean = sum_of_block(sum, scratch) / width;
  float squares = 0.f;
  for (unsigned at = threadIdx.x * V; at < width; at += blockDim.x * V) {
#pragma unroll
    for (int i = 0; i < V; i++) squares += (values[at + i] - mean) * (values[at + i] - mean);
  }
  float by = rsqrtf(sum_of_block(squares, scratch) / width + epsilon);
  for (unsigned at = threadIdx.x * V; at < width; at += blockDim.x * V) {
    Pack<float, V> a = load<float, V>(scale + at), b = load<float, V>(shift + at);
    Pack<T, V> pack;
#pragma unroll
    for (int i = 0; i < V; i++) narrow((1.f + a.at[i]) * ((values[at + i] - mean) * by) + b.at[i], &pack.at[i]);
    store<T, V>(out + at, pack);
  }
}

__device__ inline unsigned thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// `y + bias`, and GELU (tanh form) of that in the columns from `active` on; in place.
template <typename T, int V>
__device__ void add_bias(T *y, const T *bias, unsigned rows, unsigned width, unsigned active) {
  unsigned packs = width / V;
  if (thread() >= rows * packs) return;
  unsigned at = thread() % packs * V;
  y += size_t(thread()) * V;
  Pack<T, V> pack = load<T, V>(y), b;
  if (bias) b = load<T, V>(bias + at);
#pragma unroll
  for (int i = 0; i < V; i++) {
    float x = wide(pack.at[i]) + (bias ? wide(b.at[i]) : 0.f);
    // (1 + tanh(u)) / 2 is 1 / (1 + exp(-2 u)), where nothing cancels.
    float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    narrow(at + i < active ? x : x / (1.f + expf(-2.f * u)), &pack.at[i]);
  }
  store<T, V>(y, pack);
}

// `residual + gate * (y + bias)`, in place in y. `gate` is a piece of a table with so many columns.
template <typename T, int V>
__device__ void add_gated(T *y, const T *bias, const T *residual, Rows from, const float *gate, size_t columns,
                          unsigned batch, unsigned n, unsigned width) {
  unsigned packs = width / V;
  if (thread() >= batch * n * packs) return;
  unsigned at = thread() % packs * V, row = thread() / packs, entry = row / n;
  y += size_t(thread()) * V;
  Pack<T, V> pack = load<T, V>(y), b;
  Pack<T, V> r = load<T, V>(residual + entry * from.entry + row % n * from.row + at);
  Pack<float, V> g = load<float, V>(gate + entry * columns + at);
  if (bias) b = load<T, V>(bias + at);
#pragma unroll
  for (int i = 0; i < V; i++) {
    float x = wide(pack.at[i]) + (bias ? wide(b.at[i]) : 0.f);
    narrow(wide(r.at[i]) + g.at[i] * x, &pack.at[i]);
  }
  store<T, V>(y, pack);
}

// Rows from one place to another.
template <typename T, int V>
__device__ void copy_rows(T *out, Rows to, const T *x, Rows from, unsigned batch, unsigned n, unsigned width) {
  unsigned packs = width / V;
  if (thread() >= batch * n * packs) return;
  unsigned at = thread() % packs * V, row = thread() / packs, entry = row / n;
  row %= n;
  store<T, V>(out + entry * to.entry + row * to.row + at, load<T, V>(x + entry * from.entry + row * from.row + at));
}

// RMS norm of each head, scaled, then turned by position: pairs of numbers by the angles whose cosines and sines the
// tables hold, `[grid, head / 2]`. A warp for each head of each row; rows are one grid or several.
template <typename T>
__device__ void norm_and_turn(T *out, Rows to, const T *x, Rows from, const float *scale, const float *cosines,
                              const float *sines, unsigned batch, unsigned n, unsigned grid, unsigned heads,
                              unsigned head, float epsilon) {
  unsigned warp = thread() / 32, lane = threadIdx.x % 32;
  if (warp >= batch * n * heads) return;
  unsigned row = warp / heads, entry = row / n, pairs = head / 2;
  row %= n;
  x += entry * from.entry + row * from.row + warp % heads * head;
  out += entry * to.entry + row * to.row + warp % heads * head;
  float squares = 0.f;
  for (unsigned pair = lane; pair < pairs; pair += 32) {
    Pack<T, 2> two = load<T, 2>(x + 2 * pair);
    squares += wide(two.at[0]) * wide(two.at[0]) + wide(two.at[1]) * wide(two.at[1]);
  }
  float by = rsqrtf(sum_of_warp(squares) / head + epsilon);
  cosines += row % grid * pairs;
  sines += row % grid * pairs;
  for (unsigned pair = lane; pair < pairs; pair += 32) {
    Pack<T, 2> two = load<T, 2>(x + 2 * pair);
    Pack<float, 2> s = load<float, 2>(scale + 2 * pair);
    float a = wide(two.at[0]) * by * s.at[0], b = wide(two.at[1]) * by * s.at[1];
    float c = cosines[pair], d = sines[pair];
    narrow(a * c - b * d, &two.at[0]);
    narrow(a * d + b * c, &two.at[1]);
    store<T, 2>(out + 2 * pair, two);
  }
}

#define KERNELS_OF(T, NAME, V)                                                                                     \
  extern "C" __global__ void modulated_norm_##NAME(T *out, const T *x, size_t entry, size_t row,                   \
                                                   const float *table, size_t columns, unsigned n, unsigned width, \
                                                   float epsilon) {                                                \
    modulated_norm<T, V>(out, x, {entry, row}, table, columns, n, width, epsilon);                                 \
  }                                                                                                                \
  extern "C" __global__ void add_bias_##NAME(T *y, const T *bias, unsigned rows, unsigned width,                   \
                                             unsigned active) {                                                    \
    add_bias<T, V>(y, bias, rows, width, active);                                                                  \
  }                                                                                                                \
  extern "C" __global__ void add_gated_##NAME(T *y, const T *bias, const T *residual, size_t entry, size_t row,    \
                                              const float *gate, size_t columns, unsigned batch, unsigned n,       \
                                              unsigned width) {                                                    \
    add_gated<T, V>(y, bias, residual, {entry, row}, gate, columns, batch, n, width);                              \
  }                                                                                                                \
  extern "C" __global__ void copy_rows_##NAME(T *out, size_t to_entry, size_t to_row, const T *x, size_t entry,    \
                                              size_t row, unsigned batch, unsigned n, unsigned width) {            \
    copy_rows<T, V>(out, {to_entry, to_row}, x, {entry, row}, batch, n, width);                                    \
  }

#define KERNELS(T, NAME, V)                                                                                        \
  KERNELS_OF(T, NAME##_one, 1)                                                                                     \
  KERNELS_OF(T, NAME##_pack, V)                                                                                    \
  extern "C" __global__ void norm_and_turn_##NAME(                                                                 \
      T *out, size_t to_entry, size_t to_row, const T *x, size_t entry, size_t row, const float *scale,            \
      const float *cosines, const float *sines, unsigned batch, unsigned n, unsigned grid, unsigned heads,         \
      unsigned head, float epsilon) {                                                                              \
    norm_and_turn<T>(out, {to_entry, to_row}, x, {entry, row}, scale, cosines, sines, batch, n, grid, heads, head, \
                     epsilon);                                                                                     \
  }

KERNELS(float, f32, 4)
KERNELS(__half, f16, 8)
KERNELS(__nv_bfloat16, bf16, 8)
