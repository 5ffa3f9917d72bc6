// What this processor has of what torch does not tell; compiled for any processor of its architecture.
#include <cstdint>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace {

enum Feature : int64_t { AVX_VNNI = 1, DOT_PRODUCTS = 2, INT8_PRODUCTS = 4, BF16_PRODUCTS = 8 };

#if defined(__aarch64__) && defined(__APPLE__)
bool has(const char* name) {
  int32_t value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

}  // namespace

extern "C" __attribute__((visibility("default"))) int64_t inlay_features() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avxvnni") ? AVX_VNNI : 0;
#elif defined(__aarch64__) && defined(__linux__)
  // Bits of Linux's interface: HWCAP_ASIMDDP, HWCAP2_I8MM, HWCAP2_BF16.
  unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  return (first >> 20 & 1 ? DOT_PRODUCTS : 0) | (second >> 13 & 1 ? INT8_PRODUCTS : 0) |
         (second >> 14 & 1 ? BF16_PRODUCTS : 0);
#elif defined(__aarch64__) && defined(__APPLE__)
  return (has("hw.optional.arm.FEAT_DotProd") ? DOT_PRODUCTS : 0) |
         (has("hw.optional.arm.FEAT_I8MM") ? INT8_PRODUCTS : 0) | (has("hw.optional.arm.FEAT_BF16") ? BF16_PRODUCTS : 0);
#else
  return 0;
#endif
}
