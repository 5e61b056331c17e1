/* What changes between two launches of a graph. */

KERNEL set_step(u32 *more, double *numbers, u32 steps, double rate, double momentum, double decay,
                double beta_1, double beta_2, double rest_1, double rest_2, double scale,
                double epsilon, double keep) {
    if (FIRST) return;
    const double all[] = {rate,   momentum, decay, beta_1,  beta_2,
                          rest_1, rest_2,   scale, epsilon, keep};
    *more = steps;
    for (int i = 0; i < 10; ++i) numbers[i] = all[i];
}
