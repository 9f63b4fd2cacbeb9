/* LD_PRELOAD: every fsync and fdatasync takes 5 ms longer, as on a disk whose flushes cost that much. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int slow(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct timespec pause = { 0, 5 * 1000 * 1000 };
    int result = real(fd);
    nanosleep(&pause, 0);
    return result;
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
