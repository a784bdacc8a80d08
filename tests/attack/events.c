/* Kills the process that loads this (LD_PRELOAD) before a file-system event of a chosen number.

   An event is a call that changes something below a folder: a file is opened for writing, written
   to, renamed, exchanged, linked, cut, deleted, or given another mode, a folder is made or deleted.
   Of the bytes that a call would have written when it is killed, half are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long kill_at;
static atomic_long events;

/* Count events below folder; kill the process before number at, counted from 1, or never if 0. */
void watch(const char *folder, long at) {
    snprintf(root, sizeof root, "%s", folder);
    kill_at = at;
    events = 0;
}

long counted(void) { return events; }

static int below(const char *path) {
    size_t n = strlen(root);
    return n && !strncmp(path, root, n) && (path[n] == '/' || path[n] == 0);
}

/* Whether path, seen from the open folder fd, lies below the root. */
static int inside(int fd, const char *path) {
    char link[64], place[PATH_MAX];
    if (!root[0] || !path) return 0;
    if (path[0] == '/') return below(path);
    if (fd == AT_FDCWD) return getcwd(place, sizeof place) && below(place);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, place, sizeof place - 1);
    if (n < 0) return 0;
    place[n] = 0;
    return below(place);
}

/* Whether this event is the one before which to die. */
static int is_last(void) { return atomic_fetch_add(&events, 1) + 1 == kill_at; }

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static void event(int here) {
    if (here && is_last()) die();
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

static int writes(int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0; }

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        va_list rest; va_start(rest, flags);                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                      \
        event(writes(flags) && inside(AT_FDCWD, path));                    \
        REAL(name); return real(path, flags, mode);                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                       \
    int name(int fd, const char *path, int flags, ...) {                   \
        va_list rest; va_start(rest, flags);                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                      \
        event(writes(flags) && inside(fd, path));                          \
        REAL(name); return real(fd, path, flags, mode);                    \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(write);
    if (root[0] && inside(fd, "") && is_last()) { real(fd, bytes, n / 2); die(); }
    return real(fd, bytes, n);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    if (root[0] && inside(fd, "") && is_last()) { real(fd, parts, n / 2); die(); }
    return real(fd, parts, n);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    REAL(pwrite64);
    if (root[0] && inside(fd, "") && is_last()) { real(fd, bytes, n / 2, at); die(); }
    return real(fd, bytes, n, at);
}

int mkdir(const char *path, mode_t mode) {
    event(inside(AT_FDCWD, path)); REAL(mkdir); return real(path, mode);
}
int mkdirat(int fd, const char *path, mode_t mode) {
    event(inside(fd, path)); REAL(mkdirat); return real(fd, path, mode);
}
int rmdir(const char *path) {
    event(inside(AT_FDCWD, path)); REAL(rmdir); return real(path);
}
int unlink(const char *path) {
    event(inside(AT_FDCWD, path)); REAL(unlink); return real(path);
}
int unlinkat(int fd, const char *path, int flags) {
    event(inside(fd, path)); REAL(unlinkat); return real(fd, path, flags);
}
int rename(const char *old, const char *new) {
    event(inside(AT_FDCWD, new)); REAL(rename); return real(old, new);
}
int renameat(int one, const char *old, int other, const char *new) {
    event(inside(other, new)); REAL(renameat); return real(one, old, other, new);
}
int renameat2(int one, const char *old, int other, const char *new, unsigned flags) {
    event(inside(other, new)); REAL(renameat2); return real(one, old, other, new, flags);
}
int link(const char *old, const char *new) {
    event(inside(AT_FDCWD, new)); REAL(link); return real(old, new);
}
int symlink(const char *old, const char *new) {
    event(inside(AT_FDCWD, new)); REAL(symlink); return real(old, new);
}
int chmod(const char *path, mode_t mode) {
    event(inside(AT_FDCWD, path)); REAL(chmod); return real(path, mode);
}
int fchmod(int fd, mode_t mode) {
    event(inside(fd, "")); REAL(fchmod); return real(fd, mode);
}
int fchmodat(int fd, const char *path, mode_t mode, int flags) {
    event(inside(fd, path)); REAL(fchmodat); return real(fd, path, mode, flags);
}
int ftruncate64(int fd, off64_t n) {
    event(inside(fd, "")); REAL(ftruncate64); return real(fd, n);
}
int truncate64(const char *path, off64_t n) {
    event(inside(AT_FDCWD, path)); REAL(truncate64); return real(path, n);
}
