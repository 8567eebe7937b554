/* A library that stands between a server and the C library, for the calls that change files.
 *
 *   SHIM_DIR    only files below this folder count
 *   SHIM_TRACE  every change below it is appended to this file, one record a change, in the order in which it happened
 *   SHIM_KILL   <call>:<class>:<before|after|half>:<n>         the process ends by SIGKILL at its n-th such call
 *   SHIM_NOTE   before it does, it creates this file
 *   SHIM_FAIL   <call>:<class>:<n>:<errno>[:sticky]            its n-th such call fails, or every one from the n-th on
 *   SHIM_WHILE  the failing holds only while this file is there
 *
 * Calls: open (that creates), write, truncate, fdatasync, fsync, rename, link, unlink, mkdir. Classes: class_names below;
 * a file on its way to another name has the class of that name.
 *
 * Consistency. A change and its record are one step: a lock is held around both, across processes. A sync is two records,
 * one before and one after, because what is written in between may or may not be covered. What a call that does not go
 * through the C library changes (rustix makes its own system calls) is not seen; so that a file grown that way is not
 * taken for short, a sync notes the length that the system reports.
 *
 * Record, little endian: magic u32, length of the whole u32, op u16, class u16, thread i32, result i32 (0 or errno),
 * flags u32 (1: a folder), offset u64, length of the file u64, lengths of two paths and of the data u32 each, then these. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x4d494853u
#define PATH_BYTES 4096

enum op { CREATE = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, RENAME, LINK, UNLINK, MKDIR, RMDIR };
enum call { C_OPEN, C_WRITE, C_TRUNCATE, C_FDATASYNC, C_FSYNC, C_RENAME, C_LINK, C_UNLINK, C_MKDIR, CALLS };
enum when { BEFORE, AFTER, HALF, WHENS };
enum class { OTHER, LOG_SEGMENT, LOG_NEW, LOG_IDENTITY, DEAD_LETTER, MASTER, MASTER_LOG, VIEW_FILE, DEFINITION, MANIFEST,
             RUN_REPORT, LEASE, STAGED, FOLDER, CLASSES };

static const char *call_names[] = {"open", "write", "truncate", "fdatasync", "fsync", "rename", "link", "unlink", "mkdir"};
static const char *when_names[] = {"before", "after", "half"};
static const char *class_names[] = {"other", "log-segment", "log-new", "log-identity", "dead-letter", "master", "master-log",
                                    "view-file", "definition", "manifest", "run-report", "lease", "staged", "folder"};

struct header {
    uint32_t magic, total;
    uint16_t op, class;
    int32_t thread, result;
    uint32_t flags;
    uint64_t offset, size;
    uint32_t path_bytes, path2_bytes, data_bytes;
} __attribute__((packed));

/* One place among the calls, and how often it was passed. */
struct point {
    int set, call, class, when, error, sticky;
    long n, seen;
};

static char root[PATH_BYTES];
static size_t root_bytes;
static int trace = -1;
static const char *note, *only_while;
static struct point kill_at, fail_at;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static int index_of(const char *name, const char **names, int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0) return i;
    static const char words[] = "shim: a point has a name that is not known: ";
    syscall(SYS_write, 2, words, sizeof words - 1);
    syscall(SYS_write, 2, name, strlen(name));
    _exit(70);
}

static void read_point(struct point *point, const char *text, int fails) {
    char copy[256], *rest = copy, *part[5] = {0};
    if (!text || !*text) return;
    snprintf(copy, sizeof copy, "%s", text);
    for (int i = 0; i < 5 && rest; i++) part[i] = strsep(&rest, ":");
    if (!part[3]) _exit(71);
    point->call = index_of(part[0], call_names, CALLS);
    point->class = index_of(part[1], class_names, CLASSES);
    if (fails) {
        point->n = atol(part[2]);
        point->error = atoi(part[3]);
        point->sticky = part[4] != NULL;
    } else {
        point->when = index_of(part[2], when_names, WHENS);
        point->n = atol(part[3]);
    }
    point->set = 1;
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("SHIM_DIR"), *path = getenv("SHIM_TRACE");
    if (!dir) return;
    root_bytes = (size_t)snprintf(root, sizeof root, "%s/", dir);
    note = getenv("SHIM_NOTE");
    only_while = getenv("SHIM_WHILE");
    read_point(&kill_at, getenv("SHIM_KILL"), 0);
    read_point(&fail_at, getenv("SHIM_FAIL"), 1);
    if (path && *path) trace = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static int below(const char *path) { return root_bytes && strncmp(path, root, root_bytes) == 0; }

/* The absolute path that a call means, if it lies below the folder. */
static const char *resolve(int dirfd, const char *path, char *out) {
    char link[64];
    ssize_t n = 0;
    if (!root_bytes || !path) return NULL;
    if (path[0] == '/') {
        snprintf(out, PATH_BYTES, "%s", path);
    } else {
        if (dirfd == AT_FDCWD) {
            snprintf(link, sizeof link, "/proc/self/cwd");
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        }
        n = syscall(SYS_readlink, link, out, PATH_BYTES - 1);
        if (n < 0) return NULL;
        snprintf(out + n, PATH_BYTES - (size_t)n, "/%s", path);
    }
    return below(out) ? out : NULL;
}

/* The path of an open file or folder, if it lies below; `meta` is filled. The folder itself counts too. */
static const char *of_fd(int fd, char *out, struct stat *meta) {
    char link[64];
    if (!root_bytes || fstat(fd, meta) != 0 || !(S_ISREG(meta->st_mode) || S_ISDIR(meta->st_mode))) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlink, link, out, PATH_BYTES - 1);
    if (n < 0) return NULL;
    out[n] = 0;
    int itself = (size_t)n == root_bytes - 1 && strncmp(out, root, (size_t)n) == 0;
    return below(out) || itself ? out : NULL;
}

static int ends(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static enum class class_of(const char *path) {
    char name[PATH_BYTES];
    if (strlen(path) < root_bytes) return FOLDER;
    snprintf(name, sizeof name, "%s", path + root_bytes);
    char *staged = strchr(name, '#');
    if (staged) *staged = 0;
    if (strncmp(name, "log/", 4) == 0) {
        if (strncmp(name, "log/LO", 6) == 0) return LOG_IDENTITY;
        return ends(name, ".log") ? LOG_SEGMENT : ends(name, ".tmp") ? LOG_NEW : OTHER;
    }
    if (strncmp(name, "dead-letter/", 12) == 0) return DEAD_LETTER;
    if (strstr(name, "lease")) return LEASE;
    if (strstr(name, "master/events/")) return MASTER;
    if (strstr(name, "master/")) return MASTER_LOG;
    if (strstr(name, "/manifests/")) return MANIFEST;
    if (strstr(name, "/definitions/")) return DEFINITION;
    if (strstr(name, "/part-")) return VIEW_FILE;
    return strstr(name, "runs/") ? RUN_REPORT : OTHER;
}

static void record(int op, int class, int result, int folder, uint64_t offset, uint64_t size, const char *path, const char *path2,
                   const void *data, size_t data_bytes) {
    if (trace < 0) return;
    size_t a = strlen(path), b = path2 ? strlen(path2) : 0;
    struct header header = {MAGIC, (uint32_t)(sizeof(struct header) + a + b + data_bytes), (uint16_t)op, (uint16_t)class, (int32_t)syscall(SYS_gettid), result,
                            folder ? 1u : 0u, offset, size, (uint32_t)a, (uint32_t)b, (uint32_t)data_bytes};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)path, a}, {(void *)path2, b}, {(void *)data, data_bytes}};
    if (syscall(SYS_writev, trace, parts, 4) != (ssize_t)header.total) _exit(72);
}

static void lock(void) {
    if (trace < 0) return;
    pthread_mutex_lock(&one_at_a_time);
    while (syscall(SYS_flock, trace, LOCK_EX) != 0 && errno == EINTR) {}
}

static void unlock(void) {
    if (trace < 0) return;
    syscall(SYS_flock, trace, LOCK_UN);
    pthread_mutex_unlock(&one_at_a_time);
}

static void die(void) {
    if (note) syscall(SYS_openat, AT_FDCWD, note, O_WRONLY | O_CREAT, 0644);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* What is to happen at this call. */
struct verdict { int fail, before, after, half; };

static struct verdict judge(int call, int class) {
    struct verdict verdict = {0};
    if (kill_at.set && kill_at.call == call && kill_at.class == class && __sync_add_and_fetch(&kill_at.seen, 1) == kill_at.n) {
        verdict.before = kill_at.when == BEFORE;
        verdict.after = kill_at.when == AFTER;
        verdict.half = kill_at.when == HALF;
    }
    if (fail_at.set && fail_at.call == call && fail_at.class == class && (!only_while || syscall(SYS_access, only_while, F_OK) == 0)) {
        long seen = __sync_add_and_fetch(&fail_at.seen, 1);
        if (seen == fail_at.n || (fail_at.sticky && seen > fail_at.n)) verdict.fail = fail_at.error;
    }
    if (verdict.before) die();
    return verdict;
}

static int failed(int error) {
    errno = error;
    return -1;
}

/* Open. */

static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
    char full[PATH_BYTES];
    if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(dirfd, path, full)) return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    int class = class_of(full);
    struct verdict verdict = judge(C_OPEN, class);
    if (verdict.fail) return failed(verdict.fail);
    lock();
    int existed = syscall(SYS_access, full, F_OK) == 0;
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode), error = errno;
    if (fd >= 0 && !existed) record(CREATE, class, 0, 0, 0, 0, full, NULL, NULL, 0);
    if (fd >= 0 && existed && (flags & O_TRUNC)) record(TRUNCATE, class, 0, 0, 0, 0, full, NULL, NULL, 0);
    unlock();
    if (verdict.after || verdict.half) die();
    errno = error;
    return fd;
}

#define MODE_ARGUMENT \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

int open(const char *path, int flags, ...) { MODE_ARGUMENT return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_ARGUMENT return do_open(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE_ARGUMENT return do_open(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE_ARGUMENT return do_open(dirfd, path, flags, mode); }

/* Write. `at` below zero means where the file stands. */

static ssize_t raw_write(int fd, const void *bytes, size_t count, off_t at) {
    return at < 0 ? syscall(SYS_write, fd, bytes, count) : syscall(SYS_pwrite64, fd, bytes, count, at);
}

static ssize_t do_write(int fd, const void *bytes, size_t count, off_t at) {
    char path[PATH_BYTES];
    struct stat meta;
    if (!of_fd(fd, path, &meta)) return raw_write(fd, bytes, count, at);
    int class = class_of(path);
    struct verdict verdict = judge(C_WRITE, class);
    if (verdict.fail) return failed(verdict.fail);
    lock();
    off_t from = at;
    if (at < 0) {
        int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
        from = flags & O_APPEND ? meta.st_size : (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    ssize_t written = raw_write(fd, bytes, verdict.half ? count / 2 : count, at);
    int error = errno;
    if (written > 0) record(WRITE, class, 0, 0, (uint64_t)from, 0, path, NULL, bytes, (size_t)written);
    unlock();
    if (verdict.after || verdict.half) die();
    errno = error;
    return written;
}

ssize_t write(int fd, const void *bytes, size_t count) { return do_write(fd, bytes, count, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return do_write(fd, bytes, count, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) { return do_write(fd, bytes, count, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_BYTES];
    struct stat meta;
    if (!of_fd(fd, path, &meta)) return syscall(SYS_writev, fd, parts, count);
    /* A short write is allowed: the caller goes on with the rest. */
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len) return do_write(fd, parts[i].iov_base, parts[i].iov_len, -1);
    return 0;
}

static int do_truncate(int fd, off_t length) {
    char path[PATH_BYTES];
    struct stat meta;
    if (!of_fd(fd, path, &meta)) return (int)syscall(SYS_ftruncate, fd, length);
    int class = class_of(path);
    struct verdict verdict = judge(C_TRUNCATE, class);
    if (verdict.fail) return failed(verdict.fail);
    lock();
    int result = (int)syscall(SYS_ftruncate, fd, length), error = errno;
    if (result == 0) record(TRUNCATE, class, 0, 0, 0, (uint64_t)length, path, NULL, NULL, 0);
    unlock();
    if (verdict.after) die();
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return do_truncate(fd, length); }
int ftruncate64(int fd, off64_t length) { return do_truncate(fd, length); }

/* Sync. */

static int do_sync(int fd, long number, int call) {
    char path[PATH_BYTES];
    struct stat meta;
    if (!of_fd(fd, path, &meta)) return (int)syscall(number, fd);
    int folder = S_ISDIR(meta.st_mode), class = folder ? FOLDER : class_of(path);
    struct verdict verdict = judge(call, class);
    if (verdict.fail) return failed(verdict.fail);
    lock();
    record(SYNC_BEGIN, class, 0, folder, 0, folder ? 0 : (uint64_t)meta.st_size, path, NULL, NULL, 0);
    unlock();
    int result = (int)syscall(number, fd), error = errno;
    lock();
    record(SYNC_END, class, result == 0 ? 0 : error, folder, call == C_FDATASYNC, folder ? 0 : (uint64_t)meta.st_size, path, NULL, NULL, 0);
    unlock();
    if (verdict.after) die();
    errno = error;
    return result;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync, C_FSYNC); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync, C_FDATASYNC); }

/* Names. `path2` is the new one where there are two. */

static int do_name(int op, int call, int class, const char *path, const char *path2, long (*change)(void *), void *arguments) {
    struct verdict verdict = judge(call, class);
    if (verdict.fail) return failed(verdict.fail);
    lock();
    int result = (int)change(arguments), error = errno;
    if (result == 0) record(op, class, 0, 0, 0, 0, path, path2, NULL, 0);
    unlock();
    if (verdict.after) die();
    errno = error;
    return result;
}

struct names { int dirfd, dirfd2, flags; const char *path, *path2; mode_t mode; };
static long change_rename(void *p) { struct names *n = p; return syscall(SYS_renameat2, n->dirfd, n->path, n->dirfd2, n->path2, n->flags); }
static long change_link(void *p) { struct names *n = p; return syscall(SYS_linkat, n->dirfd, n->path, n->dirfd2, n->path2, n->flags); }
static long change_unlink(void *p) { struct names *n = p; return syscall(SYS_unlinkat, n->dirfd, n->path, n->flags); }
static long change_mkdir(void *p) { struct names *n = p; return syscall(SYS_mkdirat, n->dirfd, n->path, n->mode); }

static int two_names(int op, int call, struct names names, long (*change)(void *)) {
    char from[PATH_BYTES], to[PATH_BYTES];
    if (!resolve(names.dirfd, names.path, from) || !resolve(names.dirfd2, names.path2, to)) return (int)change(&names);
    return do_name(op, call, class_of(to), from, to, change, &names);
}

static int one_name(int op, int call, struct names names, long (*change)(void *)) {
    char path[PATH_BYTES];
    if (!resolve(names.dirfd, names.path, path)) return (int)change(&names);
    int class = op == MKDIR || op == RMDIR ? FOLDER : strchr(path, '#') ? STAGED : (int)class_of(path);
    return do_name(op, call, class, path, NULL, change, &names);
}

int renameat2(int dirfd, const char *path, int dirfd2, const char *path2, unsigned flags) {
    return two_names(RENAME, C_RENAME, (struct names){dirfd, dirfd2, (int)flags, path, path2, 0}, change_rename);
}
int renameat(int dirfd, const char *path, int dirfd2, const char *path2) { return renameat2(dirfd, path, dirfd2, path2, 0); }
int rename(const char *path, const char *path2) { return renameat2(AT_FDCWD, path, AT_FDCWD, path2, 0); }
int linkat(int dirfd, const char *path, int dirfd2, const char *path2, int flags) {
    return two_names(LINK, C_LINK, (struct names){dirfd, dirfd2, flags, path, path2, 0}, change_link);
}
int link(const char *path, const char *path2) { return linkat(AT_FDCWD, path, AT_FDCWD, path2, 0); }
int unlinkat(int dirfd, const char *path, int flags) {
    int op = flags & AT_REMOVEDIR ? RMDIR : UNLINK;
    return one_name(op, C_UNLINK, (struct names){dirfd, 0, flags, path, NULL, 0}, change_unlink);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int dirfd, const char *path, mode_t mode) {
    return one_name(MKDIR, C_MKDIR, (struct names){dirfd, 0, 0, path, NULL, mode}, change_mkdir);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
