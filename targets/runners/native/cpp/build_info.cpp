#include "build_info.h"

#include "platform.h"

#define MARKER "edgepose-runner-build "

// The hash of these sources and of what they are linked with, where the project's build gives it.
#ifndef EDGEPOSE_BUILD
#define EDGEPOSE_BUILD "own"
#endif

#if defined(__aarch64__)
#define ARCH "aarch64"
#elif defined(__x86_64__)
#define ARCH "x86_64"
#else
#error "the runner is for aarch64 and x86-64"
#endif

#if defined(__clang__)
#define COMPILER __VERSION__
#else
#define COMPILER "GCC " __VERSION__
#endif

#if NCNN_SIMPLEOMP
#define OPENMP "simpleomp"
#elif defined(__clang__)
#define OPENMP "libomp"
#else
#define OPENMP "libgomp"
#endif

namespace runner {
namespace {

// `used`: it must stay in the executable, as one piece.
__attribute__((used)) const char kBuild[] = MARKER
    "{\"runner\": 1, \"build\": \"" EDGEPOSE_BUILD "\", \"ncnn\": \"" NCNN_VERSION_STRING
    "\", \"arch\": \"" ARCH "\", \"compiler\": \"" COMPILER "\", \"openmp\": \"" OPENMP
    "\", \"kernels\": ["
#if NCNN_ARM82
    "\"arm82\", "
#endif
#if NCNN_ARM82DOT
    "\"arm82dot\", "
#endif
#if NCNN_ARM82FP16FML
    "\"arm82fp16fml\", "
#endif
#if NCNN_ARM84BF16
    "\"arm84bf16\", "
#endif
#if NCNN_ARM84I8MM
    "\"arm84i8mm\", "
#endif
#if NCNN_ARM86SVE
    "\"arm86sve\", "
#endif
#if NCNN_FMA
    "\"fma\", "
#endif
#if NCNN_F16C
    "\"f16c\", "
#endif
#if NCNN_AVX2
    "\"avx2\", "
#endif
#if NCNN_AVX512
    "\"avx512\", "
#endif
#if NCNN_AVX512VNNI
    "\"avx512vnni\", "
#endif
#if NCNN_AVX512BF16
    "\"avx512bf16\", "
#endif
#if NCNN_BF16
    "\"bf16\", "
#endif
    "\"fp32\"]}";

}  // namespace

const char* build_info() { return kBuild + sizeof(MARKER) - 1; }

}  // namespace runner
