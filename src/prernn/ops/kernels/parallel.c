/* Threads for one call: made, given tasks by a shared counter, joined. No pool that a fork could break, and no
   second OpenMP runtime beside torch's. */
#include "kernels.h"

#include <pthread.h>
#include <stdatomic.h>

struct crew {
    void (*task)(void *, int64_t);
    void *context;
    int64_t count;
    _Atomic int64_t next;
};

static void *work(void *argument)
{
    struct crew *crew = argument;
    for (;;) {
        int64_t i = atomic_fetch_add(&crew->next, 1);
        if (i >= crew->count)
            return NULL;
        crew->task(crew->context, i);
    }
}

void prernn_parallel(int threads, int64_t count, void (*task)(void *, int64_t), void *context)
{
    enum { MOST = 256 };
    pthread_t others[MOST];
    struct crew crew = {task, context, count, 0};
    int started = 0;
    if (threads > MOST)
        threads = MOST;
    while (started + 1 < threads && started + 1 < count)
        if (pthread_create(&others[started], NULL, work, &crew))
            break; /* no more to be had: the calling thread does what is left */
        else
            started++;
    work(&crew);
    for (int i = 0; i < started; i++)
        pthread_join(others[i], NULL);
}
