/* Kills this process at the n-th call that writes under a folder: LD_PRELOAD of kill_driver.py.

   GLCZOO_KILL_UNDER: the folder · GLCZOO_KILL_AT: n, counted from 1; a write is done by half before ·
   GLCZOO_KILL_LOG: a file that gets one line for each call instead, where it is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
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

/* Whether this call is the one to die at. */
static int counted(const char *call, const char *path) {
    if (!under(path)) return 0;
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
        return 0;
    }
    const char *at = getenv("GLCZOO_KILL_AT");
    return at && number == atol(at);
}

static void die(void) { kill(getpid(), SIGKILL); }

#define REAL(name) __typeof__(name) *real = dlsym(RTLD_NEXT, #name)
#define AT(call, path) do { if (counted(call, path)) die(); } while (0)

#define OPEN(name)                                                             \
    int name(const char *file, int flags, ...) {                              \
        REAL(name);                                                           \
        va_list more;                                                         \
        va_start(more, flags);                                                \
        mode_t mode = va_arg(more, mode_t);                                   \
        va_end(more);                                                         \
        char path[PATH_MAX];                                                  \
        if ((flags & (O_CREAT | O_TRUNC)) && joined(AT_FDCWD, file, path)) AT("open", path); \
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
        if ((flags & (O_CREAT | O_TRUNC)) && joined(folder, file, path)) AT("open", path); \
        return real(folder, file, flags, mode);                               \
    }
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *file, const char *mode) {
    REAL(fopen);
    char path[PATH_MAX];
    if (mode[0] != 'r' && joined(AT_FDCWD, file, path)) AT("open", path);
    return real(file, mode);
}

FILE *fopen64(const char *file, const char *mode) {
    REAL(fopen64);
    char path[PATH_MAX];
    if (mode[0] != 'r' && joined(AT_FDCWD, file, path)) AT("open", path);
    return real(file, mode);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    char path[PATH_MAX];
    if (path_of(fd, path) && counted("write", path)) {
        if (size > 1 && real(fd, data, size / 2) < 0) abort();
        die();
    }
    return real(fd, data, size);
}

size_t fwrite(const void *data, size_t size, size_t number, FILE *file) {
    REAL(fwrite);
    char path[PATH_MAX];
    int fd = fileno(file);
    if (fd > 2 && path_of(fd, path) && counted("write", path)) {
        real(data, 1, size * number / 2, file);
        fflush(file);
        die();
    }
    return real(data, size, number, file);
}

#define PWRITE(name, offset_t)                                                 \
    ssize_t name(int fd, const void *data, size_t size, offset_t offset) {    \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (path_of(fd, path) && counted("write", path)) {                    \
            if (size > 1 && real(fd, data, size / 2, offset) < 0) abort();    \
            die();                                                            \
        }                                                                     \
        return real(fd, data, size, offset);                                  \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *data, int count) {
    REAL(writev);
    char path[PATH_MAX];
    if (path_of(fd, path) && counted("write", path)) {
        if (real(fd, data, (count + 1) / 2) < 0) abort();
        die();
    }
    return real(fd, data, count);
}

#define SENDFILE(name, offset_t)                                               \
    ssize_t name(int out, int in, offset_t *offset, size_t size) {            \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (path_of(out, path) && counted("write", path)) {                   \
            struct stat status;                                               \
            if (!fstat(in, &status)) real(out, in, offset, status.st_size / 2); \
            die();                                                            \
        }                                                                     \
        return real(out, in, offset, size);                                   \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    char path[PATH_MAX];
    if (path_of(out, path)) AT("write", path);
    return real(in, from, out, to, size, flags);
}

#define OF_DESCRIPTOR(call, name, parameters, ...)                             \
    int name parameters {                                                     \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (path_of(fd, path)) AT(call, path);                                \
        return real(__VA_ARGS__);                                             \
    }
OF_DESCRIPTOR("fsync", fsync, (int fd), fd)
OF_DESCRIPTOR("fsync", fdatasync, (int fd), fd)
OF_DESCRIPTOR("truncate", ftruncate, (int fd, off_t size), fd, size)
OF_DESCRIPTOR("truncate", ftruncate64, (int fd, off64_t size), fd, size)
OF_DESCRIPTOR("allocate", posix_fallocate, (int fd, off_t from, off_t size), fd, from, size)
OF_DESCRIPTOR("allocate", posix_fallocate64, (int fd, off64_t from, off64_t size), fd, from, size)

/* PATH: the name that the call changes, in FOLDER. */
#define OF_PATH(call, name, folder, file, parameters, ...)                     \
    int name parameters {                                                     \
        REAL(name);                                                           \
        char path[PATH_MAX];                                                  \
        if (joined(folder, file, path)) AT(call, path);                       \
        return real(__VA_ARGS__);                                             \
    }
OF_PATH("rename", rename, AT_FDCWD, to, (const char *from, const char *to), from, to)
OF_PATH("rename", renameat, there, to, (int here, const char *from, int there, const char *to), here, from, there, to)
OF_PATH("link", link, AT_FDCWD, to, (const char *from, const char *to), from, to)
OF_PATH("link", symlink, AT_FDCWD, to, (const char *from, const char *to), from, to)
OF_PATH("truncate", truncate, AT_FDCWD, file, (const char *file, off_t size), file, size)
OF_PATH("unlink", unlink, AT_FDCWD, file, (const char *file), file)
OF_PATH("unlink", remove, AT_FDCWD, file, (const char *file), file)
OF_PATH("unlink", unlinkat, folder, file, (int folder, const char *file, int flags), folder, file, flags)
OF_PATH("rmdir", rmdir, AT_FDCWD, file, (const char *file), file)
OF_PATH("mkdir", mkdir, AT_FDCWD, file, (const char *file, mode_t mode), file, mode)
OF_PATH("mkdir", mkdirat, folder, file, (int folder, const char *file, mode_t mode), folder, file, mode)
