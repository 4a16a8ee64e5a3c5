/* Threads of one call. Torch's own pool does the work where it has one (GCC's OpenMP, whose entry point is looked up,
   not linked): threads that wait for torch's next operator would only stand in the way of others. Elsewhere threads are
   made for the call and joined. */
#define _GNU_SOURCE
#include "kernels.h"

#include <pthread.h>
#include <stdatomic.h>
#ifndef _WIN32
#include <dlfcn.h>
#endif

/* The versions that every glibc has: those of 2.34, by default, would keep a built wheel from older systems. */
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__ILP32__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#endif

struct crew {
    void (*task)(void *, int64_t);
    void *context;
    int64_t count;
    _Atomic int64_t next;
};

/* Takes tasks by a shared counter until there are none: however many threads come, all is done. */
static void work(void *argument)
{
    struct crew *crew = argument;
    for (;;) {
        int64_t i = atomic_fetch_add(&crew->next, 1);
        if (i >= crew->count)
            return;
        crew->task(crew->context, i);
    }
}

static void *thread(void *argument)
{
    work(argument);
    return NULL;
}

typedef void (*parallel_region)(void (*)(void *), void *, unsigned threads, unsigned flags);

static parallel_region torch_pool(void)
{
#ifdef _WIN32
    return NULL;
#else
    void *found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    parallel_region region;
    _Static_assert(sizeof region == sizeof found, "a function's address fits a pointer");
    __builtin_memcpy(&region, &found, sizeof region);
    return region;
#endif
}

void prernn_parallel(int threads, int64_t count, void (*task)(void *, int64_t), void *context)
{
    enum { MOST = 256 };
    struct crew crew = {task, context, count, 0};
    if (threads > count)
        threads = (int)count;
    if (threads <= 1) {
        work(&crew);
        return;
    }
    parallel_region region = torch_pool();
    if (region) {
        region(work, &crew, (unsigned)threads, 0);
        return;
    }
    pthread_t others[MOST];
    int started = 0;
    while (started < MOST && started + 1 < threads && !pthread_create(&others[started], NULL, thread, &crew))
        started++; /* where no more can be had the calling thread does what is left */
    work(&crew);
    for (int i = 0; i < started; i++)
        pthread_join(others[i], NULL);
}
