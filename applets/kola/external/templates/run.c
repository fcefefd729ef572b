/* Runs on the machine, as root. The test has passed when it ends with status 0; what is printed is in the journal.
   What kola must know of it is in kola.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    char line[256];
    int found = 0;
    FILE *release = fopen("/etc/os-release", "r");

    if (geteuid() != 0 || release == NULL) {
        perror("/etc/os-release");
        return EXIT_FAILURE;
    }
    while (fgets(line, sizeof line, release) != NULL)
        found |= strncmp(line, "ID=", 3) == 0;
    fclose(release);
    puts(found ? "ok" : "the system has no name");
    return found ? EXIT_SUCCESS : EXIT_FAILURE;
}
