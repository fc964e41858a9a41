// The floor of cluster_bench: two processes of a bare MPI job, the same messages back and forth.
// The rows are named as there.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

double median_round(int rank, std::vector<char>& bytes, int rounds) {
    const int size = static_cast<int>(bytes.size());
    std::vector<double> times;
    for (int i = 0; i < rounds; ++i) {
        double begin = MPI_Wtime();
        if (rank == 0) {
            MPI_Send(bytes.data(), size, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
            MPI_Recv(bytes.data(), size, MPI_BYTE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(bytes.data(), size, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(bytes.data(), size, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
        }
        times.push_back(MPI_Wtime() - begin);
    }
    std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
    return times[static_cast<std::size_t>(rounds) / 2];
}

}  // namespace

int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    std::vector<char> word(8);
    double time = median_round(rank, word, 2001);
    if (rank == 0) std::printf("round_trip_us %.4g\n", 1e6 * time);
    for (std::size_t kib : {64u, 1024u, 65536u}) {
        std::vector<char> bytes(kib << 10);
        time = median_round(rank, bytes, 21);
        if (rank == 0)
            std::printf("payload_%zu_KiB_MB/s %.4g\n", kib, 2 * double(bytes.size()) / 1e6 / time);
    }
    std::fflush(stdout);
    MPI_Barrier(MPI_COMM_WORLD);
    std::_Exit(0);  // MPICH 4.0 hangs in MPI_Finalize() at times
}
