/* Kills this process, or fills its disk, at the n-th call that writes under a folder: LD_PRELOAD of
   kill_driver.py.

   GLCZOO_KILL_UNDER: the folder · GLCZOO_KILL_AT: n, counted from 1; a write is done by half before ·
   GLCZOO_FULL_AT: n; from then on whatever needs room there fails with ENOSPC · GLCZOO_KILL_LOG: a file that
   gets one line for each call instead, where it is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls = 0;

static int under(const char *path) {
    const char *root = getenv("GLCZOO_KILL_UNDER");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int joined(int folder, const char *name, char *path) {
    if (name && name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return 1;
    }
    char parent[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (!getcwd(parent, sizeof parent)) return 0;
    } else if (!path_of(folder, parent)) return 0;
    return snprintf(path, PATH_MAX, "%s/%s", parent, name ? name : "") < PATH_MAX;
}

enum fate { GOES_ON, DIES, FAILS };

/* What becomes of this call. */
static enum fate counted(const char *call, const char *path, int needs_room) {
    if (!under(path)) return GOES_ON;
    long number = __sync_add_and_fetch(&calls, 1);
    const char *log = getenv("GLCZOO_KILL_LOG");
    if (log) {
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        ssize_t (*out)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
        int fd = real(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s %s\n", call, path);
        if (fd >= 0 && out(fd, line, length) < 0) abort();
        close(fd);
        return GOES_ON;
    }
    const char *at = getenv("GLCZOO_KILL_AT"), *full = getenv("GLCZOO_FULL_AT");
    if (at && number == atol(at)) return DIES;
    return full && needs_room && number >= atol(full) ? FAILS : GOES_ON;
}

static void die(void) { kill(getpid(), SIGKILL); }

#define REAL(name) __typeof__(name) *real = dlsym(RTLD_NEXT, #name)
#define AT(call, path, needs_room, failed)                                     \
    do {                                                                      \
        enum fate fate = counted(call, path, needs_room);                     \
        if (fate == DIES) die();                                              \
        if (fate == FAILS) {                                                  \
            errno = ENOSPC;                                                   \
            return failed;                                                    \
        }                                                                     \
    } while (0)
/* A write: HALF of it is done before the process dies. */
#define WRITES(path, half, failed)                                             \
    do {                                                                      \
        enum fate fate = counted("write", path, 1);                           \
        if (fate == DIES) {                                                   \
            if ((half) < 0) abort();                                          \
            die();                                                            \
        }                                                                     \
        if (fate == FAILS) {                                                  \
            errno = ENOSPC;                                                   \
            return failed;                                                    \
        }                                                                     \
    } while (0)

#define OPEN(name)                                                             \
    int name(const char *file, int flags, ...) {                              \
        REAL(name);                                                           \
        va_list more;                                                         \
        va_start(more, flags);                                                \
        mode_t mode = va_arg(more, mode_t);                                   \
        va_end(more);                                                         \
        char path[PATH_MAX];                                                  \
        if ((flags & (O_CREAT | O_TRUNC)) && joined(AT_FDCWD, file, path)) AT("open", path, 1, -1); \
        return real(file, flags, mode);                                       \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
    int name(int folder, const char *file, int flags, ...) {                  \
        REAL(name);                                                           \
        va_list more;                                                         \
        va_start(more, flags);                                                \
        mode_t mode = va_arg(more, mode_t);                                   \
        va_end(more);                                                         \
        char path[PATH_MAX];                                                  \
        if ((flags & (O_CREAT | O_TRUNC)) && joined(folder, file, path)) AT("open", path, 1, -1); \
        return real(folder, file, flags, mode);                               \
    }
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *file, const char *mode) {
    REAL(fopen);
    char path[PATH_MAX];
    if (mode[0] != 'r' && joined(AT_FDCWD, file, path)) AT("open", path, 1, NULL);
    return real(file, mode);
}

FILE *fopen64(const char *file, const char *mode) {
    REAL(fopen64);
    char path[PATH_MAX];
    if (mode[0] != 'r' && joined(AT_FDCWD, file, path)) AT("open", path, 1, NULL);
    return real(file, mode);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    char path[PATH_MAX];
    if (path_of(fd, path)) WRITES(path, real(fd, data, size / 2), -1);
    return real(fd, data, size);
}

size_t fwrite(const void *data, size_t size, size_t number, FILE *file) {
    REAL(fwrite);
    char path[PATH_MAX];
    int fd = fileno(file);
    if (fd > 2 && path_of(fd, path)) WRITES(path, (int)real(data, 1, size * number / 2, file) + fflush(file), 0);
    return real(data, size, number, file);
}

#define PWRITE(name, offset_t)                                                 \
    ssize_t name(int fd, const void *data, size_t size, offset_t offset) {    \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (path_of(fd, path)) WRITES(path, real(fd, data, size / 2, offset), -1); \
        return real(fd, data, size, offset);                                  \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *data, int count) {
    REAL(writev);
    char path[PATH_MAX];
    if (path_of(fd, path)) WRITES(path, real(fd, data, (count + 1) / 2), -1);
    return real(fd, data, count);
}

static size_t half_of(int fd) {
    struct stat status;
    return fstat(fd, &status) ? 0 : status.st_size / 2;
}

#define SENDFILE(name, offset_t)                                               \
    ssize_t name(int out, int in, offset_t *offset, size_t size) {            \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (path_of(out, path)) WRITES(path, real(out, in, offset, half_of(in)), -1); \
        return real(out, in, offset, size);                                   \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    char path[PATH_MAX];
    if (path_of(out, path)) WRITES(path, real(in, from, out, to, half_of(in), flags), -1);
    return real(in, from, out, to, size, flags);
}

#define OF_DESCRIPTOR(call, name, needs_room, failed, parameters, ...)         \
    int name parameters {                                                     \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (path_of(fd, path)) AT(call, path, needs_room, failed);            \
        return real(__VA_ARGS__);                                             \
    }
OF_DESCRIPTOR("fsync", fsync, 0, -1, (int fd), fd)
OF_DESCRIPTOR("fsync", fdatasync, 0, -1, (int fd), fd)
OF_DESCRIPTOR("truncate", ftruncate, 1, -1, (int fd, off_t size), fd, size)
OF_DESCRIPTOR("truncate", ftruncate64, 1, -1, (int fd, off64_t size), fd, size)
OF_DESCRIPTOR("allocate", posix_fallocate, 1, ENOSPC, (int fd, off_t from, off_t size), fd, from, size)
OF_DESCRIPTOR("allocate", posix_fallocate64, 1, ENOSPC, (int fd, off64_t from, off64_t size), fd, from, size)

/* FILE: the name that the call changes, in FOLDER. */
#define OF_PATH(call, name, needs_room, folder, file, parameters, ...)         \
    int name parameters {                                                     \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (joined(folder, file, path)) AT(call, path, needs_room, -1);       \
        return real(__VA_ARGS__);                                             \
    }
OF_PATH("rename", rename, 0, AT_FDCWD, to, (const char *from, const char *to), from, to)
OF_PATH("rename", renameat, 0, there, to, (int here, const char *from, int there, const char *to), here, from, there, to)
OF_PATH("link", link, 1, AT_FDCWD, to, (const char *from, const char *to), from, to)
OF_PATH("link", symlink, 1, AT_FDCWD, to, (const char *from, const char *to), from, to)
OF_PATH("truncate", truncate, 1, AT_FDCWD, file, (const char *file, off_t size), file, size)
OF_PATH("unlink", unlink, 0, AT_FDCWD, file, (const char *file), file)
OF_PATH("unlink", remove, 0, AT_FDCWD, file, (const char *file), file)
OF_PATH("unlink", unlinkat, 0, folder, file, (int folder, const char *file, int flags), folder, file, flags)
OF_PATH("rmdir", rmdir, 0, AT_FDCWD, file, (const char *file), file)
OF_PATH("mkdir", mkdir, 1, AT_FDCWD, file, (const char *file, mode_t mode), file, mode)
OF_PATH("mkdir", mkdirat, 1, folder, file, (int folder, const char *file, mode_t mode), folder, file, mode)
