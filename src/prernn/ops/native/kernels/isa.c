/* All kernels for one instruction set: compiled with NAME and WIDTH given, and the flags that go with them. */
#include "cells.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "diagonal.h"

#include "band.h"

#include "rows.h"

#include "paths.h"

#include "path_maps.h"

#include "narrow.h"

#include "narrow_rows.h"

#include "few.h"

#include "few_convolution.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

int JOIN(NAME, _forward)(const struct recurrence *job)
{
    return job->columns == 1 ? run_diagonal_forward(job) : run_band_forward(job);
}

int JOIN(NAME, _backward)(const struct recurrence *job)
{
    return job->columns == 1 ? run_diagonal_backward(job) : run_band_backward(job);
}

int JOIN(NAME, _rows_product)(const struct rows_product *job)
{
    return run_rows_product(job);
}

int JOIN(NAME, _rows_backward)(const struct rows_product *job)
{
    return run_rows_backward(job);
}

int JOIN(NAME, _path_product)(const struct path_product *job)
{
    return run_paths(job, 0);
}

int JOIN(NAME, _path_weight)(const struct path_product *job)
{
    return run_paths(job, 1);
}

int JOIN(NAME, _path_maps)(const struct path_maps *job)
{
    return run_path_maps(job, 0);
}

int JOIN(NAME, _path_maps_weight)(const struct path_maps *job)
{
    return run_path_maps(job, 1);
}

int JOIN(NAME, _narrow_product)(const struct narrow_product *job)
{
    return run_narrow_product(job);
}

int JOIN(NAME, _narrow_rows)(const struct narrow_rows *job)
{
    return run_narrow_rows(job);
}

int JOIN(NAME, _few_product)(const struct few_product *job)
{
    return run_few_product(job);
}

int JOIN(NAME, _few_convolution)(const struct few_convolution *job)
{
    return run_few_convolution(job);
}
