/* Loaded before libc: what happens to files below a directory, and what time it is, as a small file says.

   FAULT_DIR: the directory. FAULT_MODE: a file with one word: none, full, readonly, error, slow, hang, or a number of
   seconds by which the wall clock is off. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static ssize_t (*real_read)(int, void *, size_t);

static void mode_of(char *mode, size_t size) {
    const char *path = getenv("FAULT_MODE");
    mode[0] = 0;
    if (!path) return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    if (!real_read) real_read = dlsym(RTLD_NEXT, "read");
    ssize_t count = real_read(file, mode, size - 1);
    mode[count > 0 ? count : 0] = 0;
    close(file);
}

static int is_below(int file) {
    char link[64], path[4096];
    const char *directory = getenv("FAULT_DIR");
    if (!directory) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t count = readlink(link, path, sizeof path - 1);
    if (count <= 0) return 0;
    path[count] = 0;
    return strncmp(path, directory, strlen(directory)) == 0;
}

/* 0, or the errno that the call is to fail with; may take its time. */
static int fault(int file, int is_write) {
    char mode[32];
    if (!is_below(file)) return 0;
    mode_of(mode, sizeof mode);
    if (!strcmp(mode, "full")) return is_write ? ENOSPC : 0;
    if (!strcmp(mode, "readonly")) return is_write ? EROFS : 0;
    if (!strcmp(mode, "error")) return EIO;
    if (!strcmp(mode, "slow")) usleep(50000);
    if (!strcmp(mode, "hang")) while (!strcmp(mode, "hang")) { usleep(20000); mode_of(mode, sizeof mode); }
    return 0;
}

#define WRAP(type, name, is_write, parameters, arguments)                     \
    type name parameters {                                                    \
        static type (*real) parameters;                                      \
        if (!real) real = dlsym(RTLD_NEXT, #name);                            \
        int error = fault(file, is_write);                                    \
        if (error) { errno = error; return -1; }                              \
        return real arguments;                                                \
    }

WRAP(ssize_t, write, 1, (int file, const void *data, size_t size), (file, data, size))
WRAP(ssize_t, pwrite, 1, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
WRAP(ssize_t, pwrite64, 1, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
WRAP(ssize_t, writev, 1, (int file, const struct iovec *parts, int count), (file, parts, count))
WRAP(ssize_t, pwritev, 1, (int file, const struct iovec *parts, int count, off_t at), (file, parts, count, at))
WRAP(ssize_t, pread, 0, (int file, void *data, size_t size, off_t at), (file, data, size, at))
WRAP(ssize_t, pread64, 0, (int file, void *data, size_t size, off64_t at), (file, data, size, at))
WRAP(int, fsync, 1, (int file), (file))
WRAP(int, fdatasync, 1, (int file), (file))
WRAP(int, ftruncate, 1, (int file, off_t size), (file, size))

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static __thread int is_inside;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME && !is_inside) {
        char mode[32];
        is_inside = 1;
        mode_of(mode, sizeof mode);
        now->tv_sec += atol(mode);
        is_inside = 0;
    }
    return status;
}
