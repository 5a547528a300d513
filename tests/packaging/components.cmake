# What a consumer is built with: WITH_<COMPONENT> of its command line.

set(with "")
set(targets syncbn::syncbn)
set(definitions "")
foreach(component openmp mpi dlpack npz safetensors xtensor)
  string(TOUPPER ${component} option)
  if(WITH_${option})
    list(APPEND with ${component})
    list(APPEND targets syncbn::${component})
    list(APPEND definitions WITH_${option})
  endif()
endforeach()
