// The one piece of C++ of imagebart: what neither tch nor std can do. A C ABI, no exceptions, no state, no libtorch or CUDA
// headers; `src/torch/shim.rs` is its only caller.

#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstddef>
#include <cstdio>

namespace {

void copy(const char *text, char *out, size_t capacity) {
  if (out != nullptr && capacity > 0) std::snprintf(out, capacity, "%s", text == nullptr ? "" : text);
}

// The CUDA driver API, from cuda.h: the numbers and signatures are part of its stable ABI.
using CUresult = int;
using CUdevice = int;
constexpr CUresult CUDA_SUCCESS = 0;
constexpr int COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int COMPUTE_CAPABILITY_MINOR = 76;

struct Driver {
  CUresult (*init)(unsigned int flags) = nullptr;
  CUresult (*driver_version)(int *version) = nullptr;
  CUresult (*device_count)(int *count) = nullptr;
  CUresult (*device_get)(CUdevice *device, int ordinal) = nullptr;
  CUresult (*device_name)(char *name, int capacity, CUdevice device) = nullptr;
  CUresult (*device_attribute)(int *value, int attribute, CUdevice device) = nullptr;
  CUresult (*error_string)(CUresult error, const char **text) = nullptr;
};

template <typename Function>
bool find(void *library, const char *name, Function &function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// Never closed: the driver stays loaded for libtorch.
bool open_driver(Driver &driver, char *error, size_t capacity) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    copy(dlerror(), error, capacity);
    return false;
  }
  bool complete = find(library, "cuInit", driver.init) && find(library, "cuDriverGetVersion", driver.driver_version) &&
                  find(library, "cuDeviceGetCount", driver.device_count) && find(library, "cuDeviceGet", driver.device_get) &&
                  find(library, "cuDeviceGetName", driver.device_name) &&
                  find(library, "cuDeviceGetAttribute", driver.device_attribute) &&
                  find(library, "cuGetErrorString", driver.error_string);
  if (!complete) copy("libcuda.so.1 lacks a function of the CUDA driver API", error, capacity);
  return complete;
}

int check(const Driver &driver, CUresult result, char *error, size_t capacity) {
  if (result == CUDA_SUCCESS) return 0;
  const char *text = nullptr;
  if (driver.error_string(result, &text) != CUDA_SUCCESS || text == nullptr) text = "unknown CUDA driver error";
  if (error != nullptr && capacity > 0) std::snprintf(error, capacity, "%s (CUDA error %d)", text, result);
  return 2;
}

}  // namespace

extern "C" {

// Opens a shared library for the whole process. 0, or 1 with the loader's message in `error`.
int imagebart_open_library(const char *path, char *error, size_t capacity) {
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) != nullptr) return 0;
  copy(dlerror(), error, capacity);
  return 1;
}

// Whether float32 on CUDA may be TF32, whose mantissa has ten bits. Without it libraries of CUDA are kept from it, which take it
// for convolutions by themselves; with it libtorch takes it for matrix products too. What the user has set stays. 0; 1 when there
// are other threads, which may be reading the environment: then nothing is done.
int imagebart_tf32(int allowed) {
  int entries = 0;
  DIR *tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return 1;
  while (readdir(tasks) != nullptr) ++entries;
  closedir(tasks);
  if (entries != 3) return 1;  // this thread, and the two dots
  const int set = allowed ? setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", 0) : setenv("NVIDIA_TF32_OVERRIDE", "0", 0);
  return set == 0 ? 0 : 1;
}

// Keeps glibc's heap from growing with the length of a run: one arena, so that what one thread frees another can use, and
// fixed thresholds, which glibc otherwise raises with the sizes it sees. Elsewhere it does nothing.
void imagebart_steady_heap() {
#ifdef __GLIBC__
  constexpr int THRESHOLD = 32 << 20;
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, THRESHOLD);
  mallopt(M_TRIM_THRESHOLD, THRESHOLD);
#endif
}

// The path of a shared library that is already loaded. 0, or 1 when it is not loaded or its path cannot be told.
int imagebart_library_path(const char *name, char *path, size_t capacity) {
  void *library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return 1;
  struct link_map *map = nullptr;
  int status = dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr && map->l_name != nullptr ? 0 : 1;
  if (status == 0) copy(map->l_name, path, capacity);
  dlclose(library);
  return status;
}

// Number of devices and the driver's version (13000 = CUDA 13.0).
// 0; 1 when there is no driver library; 2 when the driver refuses: the reason in `error`.
int imagebart_cuda_driver(int *count, int *version, char *error, size_t capacity) {
  Driver driver;
  if (!open_driver(driver, error, capacity)) return 1;
  *version = 0;
  driver.driver_version(version);
  if (int status = check(driver, driver.init(0), error, capacity)) return status;
  return check(driver, driver.device_count(count), error, capacity);
}

// Compute capability and name of a device. Status and `error` as above. cuInit may be called again at no cost.
int imagebart_cuda_device(int ordinal, int *major, int *minor, char *name, size_t name_capacity, char *error,
                          size_t capacity) {
  Driver driver;
  if (!open_driver(driver, error, capacity)) return 1;
  if (int status = check(driver, driver.init(0), error, capacity)) return status;
  CUdevice device = 0;
  if (int status = check(driver, driver.device_get(&device, ordinal), error, capacity)) return status;
  if (int status = check(driver, driver.device_attribute(major, COMPUTE_CAPABILITY_MAJOR, device), error, capacity))
    return status;
  if (int status = check(driver, driver.device_attribute(minor, COMPUTE_CAPABILITY_MINOR, device), error, capacity))
    return status;
  return check(driver, driver.device_name(name, static_cast<int>(name_capacity), device), error, capacity);
}

}  // extern "C"
